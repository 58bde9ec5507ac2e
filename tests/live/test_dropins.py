"""Drop-ins on the lab's login node: taken up, refused, kept; and what a site writes into its job scripts."""

from __future__ import annotations

import html
import re
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, gateway
from tests.lab.nodes import Node, wait_until
from tests.live.client import Person

SITE_D = "/etc/gateway/site.d"
OTHER_D = "/etc/gateway-other/site.d"
TITLED = "version: 1\npartitions: [{{name: debug, title: {}}}]\n"


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Iterator[Lab]:
    """The lab with directories of drop-ins on its login node: one for each of the two clusters."""
    lab.start_gateway()
    lab.stop_gateway()
    lab.login.run(["mkdir", "-p", "-m", "755", SITE_D, OTHER_D], check=True)
    other = gateway.CERTIFICATE_CONFIG.replace("tunnel:", f"  dropins: {OTHER_D}\ntunnel:", 1)
    (lab.state / "hub/sites/labcert.yaml").write_text(other)
    lab.start_gateway()
    try:
        yield lab
    finally:
        lab.stop_gateway()
        lab.login.run(["rm", "-rf", "/etc/gateway", "/etc/gateway-other"], check=True)
        lab.write_gateway_config()
        lab.start_gateway()


@pytest.fixture(scope="module")
def alice(cluster: Lab) -> Person:
    return Person(cluster, "alice").login()


def put(lab: Lab, name: str, text: str, directory: str = SITE_D) -> None:
    words = ["install", "-m", "644", "/dev/stdin", f"{directory}/{name}"]
    lab.login.run(words, input=text, check=True)


def on_login(lab: Lab, script: str) -> None:
    lab.login.run(["sh", "-euc", script, "sh", SITE_D], check=True)


def reload(lab: Lab) -> subprocess.CompletedProcess[str]:
    return lab.gateway_command("reload", "-f", gateway.CONFIG)


def form(person: Person, cluster: str = "lab") -> str:
    return person.open(f"{person.hub}/hub/spawn?cluster={cluster}").text


def test_a_drop_in_is_on_the_form_at_once_by_reload_and_by_itself_within_a_minute(
    cluster: Lab, alice: Person
) -> None:
    assert "Told by reload" not in form(alice)
    put(cluster, "10.yaml", TITLED.format("Told by reload"))
    done = reload(cluster)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"lab: ok: 3 partitions, from /etc/gateway/sites/lab.yaml, login:{SITE_D}/10.yaml" in done.stdout
    assert "Told by reload" in form(alice)
    assert "Told by reload" not in form(alice, "labcert"), "a cluster's drop-ins are its own"
    put(cluster, "20.yaml", TITLED.format("Seen by itself"))
    begun = time.monotonic()
    wait_until(lambda: "Seen by itself" in form(alice), "the hub sees the new file", 60, 0.5)
    assert time.monotonic() - begun < 60
    on_login(cluster, 'rm "$1"/20.yaml')
    assert reload(cluster).returncode == 0
    assert "Told by reload" in form(alice)


LOOP = "{% for i in range(99999) %}"
#: How files are spoiled on the login node (their directory is $1), and what is said of each, all at once.
SPOILED = {
    "who-may-write": (
        """
        for name in owner mode; do echo "version: 1" >"$1/$name.yaml"; done
        chown alice "$1"/owner.yaml
        chmod 664 "$1"/mode.yaml
        echo "version: 1" >/home/alice/out.yaml
        ln -s /home/alice/out.yaml "$1"/out.yaml
        head -c 65537 /dev/zero >"$1"/size.yaml
        """,
        (
            "owner.yaml: belongs to alice, not to root: chown root",
            "mode.yaml: can be written by others than root (-rw-rw-r--): chmod go-w",
            "out.yaml: leads through /home/alice, which belongs to alice, not to root: put the file itself",
            "size.yaml: has 65537 bytes, more than 64 kB",
        ),
    ),
    "directory": (
        'chmod o+w "$1"',
        (f"login:{SITE_D}: can be written by others than root (drwxr-xrwx): chmod go-w {SITE_D}",),
    ),
    "parent": (
        'chmod g+w "$1"/..',
        (f"login:{SITE_D}: /etc/gateway can be written by others than root (drwxrwxr-x): chmod go-w",),
    ),
    "content": (
        r"""
        printf 'version: 1\ntitle: &a x\nmessages: {form: *a}\n' >"$1"/alias.yaml
        printf 'version: 1\ntitle: !!python/name:os.system x\n' >"$1"/tag.yaml
        printf 'version: 1\nlogin: {user: alice}\n' >"$1"/trusted.yaml
        printf 'version: 1\nname: labcert\n' >"$1"/another.yaml
        """,
        ("alias.yaml:", "tag.yaml:2: ", "trusted.yaml:2: login", "another.yaml:2: name"),
    ),
    "bomb": (
        f"""
        bomb='{LOOP}{LOOP}{{% endfor %}}{{% endfor %}}'
        printf 'version: 1\\nscript: {{header: "%s"}}\\n' "$bomb" >"$1"/bomb.yaml
        """,
        ("lab: script.header: takes more than 1 s to render: make it simpler",),
    ),
}


@pytest.mark.parametrize(("spoil", "sentences"), SPOILED.values(), ids=SPOILED)
def test_a_bad_file_is_refused_with_a_sentence_and_the_last_good_ones_stay(
    cluster: Lab, alice: Person, spoil: str, sentences: tuple[str, ...]
) -> None:
    """What is good beside it is not used either; the other cluster does not notice."""
    shown = re.search(r"<option[^>]*>Told by reload", form(alice))
    put(cluster, "10.yaml", TITLED.format("Not to be seen"))
    on_login(cluster, spoil)
    done = reload(cluster)
    on_login(cluster, 'chmod 755 "$1" "$1"/..; rm "$1"/*')
    assert done.returncode == 1
    for sentence in sentences:
        assert sentence in done.stdout
    assert len(re.findall("  fault: ", done.stdout)) == len(sentences), done.stdout
    assert "labcert: ok" in done.stdout
    assert shown
    assert "Told by reload" in form(alice)


def test_the_last_good_ones_outlive_the_hub_and_administrators_see_what_is_wrong(
    cluster: Lab, alice: Person
) -> None:
    put(cluster, "10.yaml", TITLED.format("From before"))
    assert reload(cluster).returncode == 0
    put(cluster, "10.yaml", TITLED.format("Not to be seen") + "partition: {}\n")
    cluster.stop_gateway()
    cluster.start_gateway()
    assert "From before" in form(alice)
    assert reload(cluster).returncode == 1
    assert "From before" in form(alice)
    carol = Person(cluster, "carol").login()
    page = carol.open(f"{carol.hub}/hub/clusters").text
    assert f"login:{SITE_D}/10.yaml:3: partition" in page
    put(cluster, "10.yaml", TITLED.format("Mended"))
    assert "Mended" in carol.submit("/hub/clusters").text or "Mended" in form(alice)
    assert cluster.gateway_log.read_text().count(f"login:{SITE_D}/10.yaml:3: partition") == 1


def test_render_prints_what_is_submitted_with_the_sites_header(cluster: Lab, alice: Person) -> None:
    header = "#SBATCH --comment={{ job.user|directive }}\\nexport SITE_CORES={{ choices.cores }}\\n"
    put(cluster, "10.yaml", f'version: 1\nscript: {{header: "{header}"}}\n')
    assert reload(cluster).returncode == 0
    chosen = {"application": "lab", "partition": "debug", "walltime": "5m", "cores": "1", "memory": "100M"}
    words = ["--user", "alice", *(f"--option={name}={value}" for name, value in chosen.items())]
    shown = cluster.gateway_command("render", "lab", "-f", gateway.CONFIG, *words)
    assert shown.returncode == 0, shown.stderr
    assert "\n#SBATCH --comment=alice\nexport SITE_CORES=1\n" in shown.stdout
    assert alice.spawn(**chosen).status == 303
    try:
        wait_until(lambda: bool(alice.state().get("job_id")), "the job is there", 30)
        server_id = alice.state()["id"]
        submitted = (cluster.state / "home/alice/.gateway" / server_id / "script").read_text()
    finally:
        alice.stop()
    same = re.escape(shown.stdout).replace("0" * 16, "[0-9a-f]{16}").replace("a" * 10, server_id)
    assert re.fullmatch(same, submitted), submitted


# --- two login nodes --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second(cluster: Lab) -> Iterator[Node]:
    """Another login node of the cluster, for jobs and tunnels too."""
    node = cluster.add_login_node()
    node.run(["mkdir", "-p", "-m", "755", SITE_D], check=True)
    two = gateway.SITE_CONFIG.replace("hosts: [login]", "hosts: [login, otherlogin]", 1)
    cluster.stop_gateway()
    (cluster.state / "hub/sites/lab.yaml").write_text(two)
    cluster.start_gateway()
    try:
        yield node
    finally:
        cluster.sshd.start()
        for name in ("sshd", "munged"):
            cluster.daemon(f"{name}-otherlogin").stop()


def put_on(node: Node, text: str) -> None:
    """Let a login node have one drop-in, root's, with this text."""
    node.run(["sh", "-euc", 'rm -f "$1"/*; cat >"$1"/10.yaml', "sh", SITE_D], input=text, check=True)


def clusters_page(carol: Person) -> str:
    """Have the gateway read all login nodes, and return what its page of clusters says then, without tags."""
    assert carol.submit("/hub/clusters").status == 303
    text = carol.open(f"{carol.hub}/hub/clusters").text
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_of_login_nodes_that_disagree_both_are_shown_and_the_first_counts(
    cluster: Lab, second: Node, alice: Person
) -> None:
    carol = Person(cluster, "carol").login()
    put_on(cluster.login, TITLED.format("Of the first"))
    put_on(second, TITLED.format("Of the first"))
    assert "do not have the same" not in clusters_page(carol)
    rows = [rf"{node} {SITE_D}/10\.yaml \d+ [0-9a-f]{{12}} " for node in ("login", "otherlogin")]

    put_on(second, TITLED.format("Of the second"))
    page = clusters_page(carol)
    assert (
        "login and otherlogin do not have the same drop-ins: those of login count; copy them to otherlogin"
        in page
    )
    assert re.search(f"{rows[0]}yes {rows[1]}no: login says something else", page), page
    assert ("Of the first" in form(alice), "Of the second" in form(alice)) == (True, False)
    assert "note: Login nodes login and otherlogin do not have the same" in reload(cluster).stdout

    second.run(["chown", "alice", f"{SITE_D}/10.yaml"], check=True)
    page = clusters_page(carol)
    assert "those of login count; copy them" in page
    assert f"otherlogin:{SITE_D}/10.yaml: belongs to alice, not to root" in page
    assert "Nothing of these drop-ins is used" not in page

    put_on(second, TITLED.format("Of the second"))
    cluster.login.run(["chown", "alice", f"{SITE_D}/10.yaml"], check=True)
    page = clusters_page(carol)
    assert f"login:{SITE_D}/10.yaml: belongs to alice, not to root" in page
    assert "Nothing of these drop-ins is used: the last good ones stay" in page
    assert "those of login count; mend them, and copy them to otherlogin" in page
    assert re.search(f"{rows[1]}no: login says something else", page), page
    assert ("Of the first" in form(alice), "Of the second" in form(alice)) == (True, False)


def silence(lab: Lab, node: Node) -> None:
    """Kill a login node's sshd, and all connections to it."""
    lab.daemon("sshd" if node is lab.login else f"sshd-{node.name}").stop(signal.SIGKILL)
    for process in node.processes():
        if process.argv[0].startswith("sshd:"):
            process.kill()


def test_a_login_node_that_does_not_answer_is_named_and_the_next_one_counts(
    cluster: Lab, second: Node, alice: Person
) -> None:
    carol = Person(cluster, "carol").login()
    put_on(cluster.login, TITLED.format("Of the first"))
    put_on(second, TITLED.format("Of the second"))
    silence(cluster, second)
    page = clusters_page(carol)
    assert (
        "Login node otherlogin does not answer, so nobody knows whether its drop-ins are the same: " in page
    )
    assert "do not have the same drop-ins" not in page
    assert "Of the first" in form(alice)
    cluster.daemon("sshd-otherlogin").start()
    silence(cluster, cluster.login)
    page = clusters_page(carol)
    assert "Login node login does not answer" in page
    assert "Login node otherlogin does not answer" not in page
    assert "The scheduler does not say what there is" not in page.partition("by certificate")[0]
    assert "Of the second" in form(alice)
    cluster.sshd.start()
    page = clusters_page(carol)
    assert "does not answer, so nobody knows" not in page
    assert "those of login count" in page
    assert "Of the first" in form(alice)
