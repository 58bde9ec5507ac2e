"""Site configs: what is refused, with which words and on which line."""

import time
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.siteconfig import (
    DropIn,
    SiteConfig,
    parse_drop_in,
    parse_memory,
    parse_site_config,
    parse_walltime,
    reading,
)
from gateway.siteconfig.crosschecks import cross_faults
from gateway.siteconfig.pattern import pattern_fault
from gateway.sites import load_site, load_sites

GOOD = """\
version: 1
name: cascade
title: Cascade
scheduler: slurm
login:
  hosts: [login1.example.org]
  user: gateway
  key: /etc/gateway/ssh/cascade
  known_hosts: /etc/gateway/ssh/known_hosts
  act_as: sudo
partitions:
  - name: short
    max_walltime: 4h
    max_cores: 32
    max_memory: 128G
    gpus: {a100: 4}
    default: true
  - {name: long, max_walltime: 7-00:00:00, max_memory: 1T}
applications:
  - {name: lab, title: JupyterLab, command: [jupyter, lab], shell: /bin/bash -l, url: /lab}
"""


def fault(old: str, new: str) -> str:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        parse_site_config(GOOD.replace(old, new), "site.yaml")
    return str(caught.value)


def test_a_good_one_is_read() -> None:
    site = parse_site_config(GOOD, "site.yaml")
    short, long = site.partitions
    assert (short.max_walltime, short.max_memory, short.gpus) == (240, 128 * 1024, {"a100": 4})
    assert (long.max_walltime, long.max_cores) == (7 * 24 * 60, None)
    assert site.tunnel.ports == (20000, 29999)
    assert site.partition("nosuch") is None


@pytest.mark.parametrize(
    ("old", "new", "line", "where", "what"),
    [
        ("4h", "soon", 13, "partitions[0].max_walltime", "write a walltime as"),
        ("128G", "128", 15, "partitions[0].max_memory", "whole number and a unit"),
        ("name: short", "name: 'a b'", 12, "partitions[0].name", "'a b' is not allowed"),
        ("max_cores: 32", "cores: 32", 14, "partitions[0].cores", "there is no such key"),
        ("act_as: sudo", "act_as: root", 10, "login.act_as", "sudo"),
        ("  user: gateway\n", "", 5, "login.user", "required"),
        ("/etc/gateway/ssh/cascade", "ssh/key", 8, "login.key", "absolute path"),
        ("name: long", "name: short", 11, "partitions", "short is there twice"),
        ("title: Cascade", "title: Cascade\ntitle: Again", 4, "", "title is there twice"),
        ("title: Cascade", "title: &x Cascade\nname: *x", 4, "", "aliases are not allowed"),
        ("title: Cascade", "title: ]", 3, "", "expected"),
        ("title: Cascade", "title: !!python/object:os.system x", 3, "", "tags are not allowed"),
        ("title: Cascade", "title: !foo x", 3, "", "tags are not allowed"),
        ("title: Cascade", "title: !!str x", 3, "", "tags are not allowed"),
        ("title: Cascade", "? [a]\n: b", 3, "", "a key is one word"),
        ("title: Cascade", f"title: {'[' * 60_000}", 3, "", "this lies too deep"),
        ("title: Cascade", "title: Cascade\n<<: {name: x}", 4, "<<", "there is no such key"),
        ("title: Cascade", "title: Cascade\n~: x", 4, "", "a key is one word"),
        ("[login1.example.org]", "['-oProxyCommand=x']", 6, "login.hosts[0]", "not allowed"),
        ("/bin/bash -l", "/bin/tcsh", 20, "applications[0].shell", "not allowed"),
    ],
)
def test_a_fault_names_its_line_and_place(old: str, new: str, line: int, where: str, what: str) -> None:
    text = fault(old, new)
    assert text.startswith(f"site.yaml:{line}: {where}")
    assert what in text


@pytest.mark.parametrize(
    ("setting", "where", "what"),
    [
        ("source_addresses: [gw.example.org]", "login.source_addresses[0]", "in CIDR form"),
        ("source_addresses: [192.0.2.1/24]", "login.source_addresses[0]", "has host bits set"),
        ("certificate_minutes: 0", "login.certificate_minutes", "greater than or equal to 1"),
        ("certificate_minutes: 61", "login.certificate_minutes", "less than or equal to 60"),
    ],
)
def test_what_a_certificate_may_not_say_is_refused(setting: str, where: str, what: str) -> None:
    text = fault("act_as: sudo", f"act_as: certificate\n  {setting}")
    assert text.startswith(f"site.yaml:11: {where}: ")
    assert what in text


def test_certificates_are_good_for_five_minutes_unless_the_site_says_otherwise() -> None:
    text = GOOD.replace("act_as: sudo", "act_as: certificate\n  source_addresses: [192.0.2.1, 2001:db8::/32]")
    login = parse_site_config(text, "site.yaml").login
    assert login.certificate_minutes == 5
    assert login.source_addresses == ("192.0.2.1", "2001:db8::/32")
    assert login.owner("alice") == "alice"


SSH = """\
  hosts: [login1.example.org]
  user: gateway
  key: /etc/gateway/ssh/cascade
  known_hosts: /etc/gateway/ssh/known_hosts
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("  hosts: [login1.example.org]\n", "", 5, "login.hosts: transport: ssh needs hosts"),
        ("[login1.example.org]", "[]", 6, "login.hosts: transport: ssh needs hosts"),
        ("  key: /etc/gateway/ssh/cascade\n", "", 5, "login.key: transport: ssh needs key"),
        ("ssh/known_hosts\n", "ssh/known_hosts\n  transport: local\n", 9, "takes no known_hosts"),
        (SSH, "  transport: local\n  user: gateway\n  port: 22\n", 8, "transport: local takes no port"),
        (SSH, "  transport: local\n", 5, "login.user: Field required"),
        (SSH, "  transport: telnet\n  user: gateway\n", 6, "Input should be 'ssh' or 'local'"),
    ],
)
def test_a_login_is_over_ssh_or_local_and_not_half_of_both(old: str, new: str, line: int, what: str) -> None:
    told = fault(old, new).splitlines()
    assert any(text.startswith(f"site.yaml:{line}: ") and text.endswith(what) for text in told)


@pytest.mark.parametrize(
    ("tunnel", "what"),
    [
        ("drect", "tunnel.kind: Input should be 'ssh' or 'direct'"),
        ("[direct]", "tunnel: write keys and values here"),
        ("{kind: direct, hosts: [login1]}", "tunnel.hosts: tunnel: direct takes no hosts"),
        ("{kind: direct, key: /etc/gateway/key}", "tunnel.key: tunnel: direct takes no key"),
        ("{kind: direct, masters: 1}", "tunnel.masters: tunnel: direct takes no masters"),
        ("{kind: direct, ports: 1-2}", "tunnel.ports: write a range"),
    ],
)
def test_a_direct_tunnel_takes_nothing_of_ssh(tunnel: str, what: str) -> None:
    assert fault("partitions:", f"tunnel: {tunnel}\npartitions:").startswith(f"site.yaml:11: {what}")


def test_a_hub_on_a_submit_host_has_a_direct_tunnel_or_says_where_it_leads() -> None:
    local = GOOD.replace(SSH, "  transport: local\n  user: gateway\n")

    def with_tunnel(tunnel: str) -> SiteConfig:
        return parse_site_config(local.replace("partitions:", f"tunnel: {tunnel}\npartitions:"), "site.yaml")

    assert with_tunnel("direct").tunnel == with_tunnel("{kind: direct}").tunnel
    assert with_tunnel("{kind: direct, ports: 30000-31000}").tunnel.ports == (30000, 31000)
    whole = "{hosts: [login1], user: tunnel, key: /etc/key, known_hosts: /etc/known_hosts}"
    assert with_tunnel(whole).tunnel.hosts == ("login1",)
    with pytest.raises(ConfigError) as caught:
        with_tunnel("{hosts: [login1], user: tunnel}")
    says = "site.yaml:9: tunnel: transport: local needs key, known_hosts here, or tunnel: direct"
    assert str(caught.value) == says
    with pytest.raises(ConfigError, match="needs hosts, user, key, known_hosts here, or tunnel: direct"):
        parse_site_config(local, "site.yaml")


def test_words_that_look_like_numbers_are_what_the_key_says() -> None:
    text = GOOD.replace("4h", "12:30:00").replace("name: long", "name: 012")
    site = parse_site_config(f"{text}form: {{fix: {{cores: 4, exclusive: true}}}}\n", "site.yaml")
    assert site.partitions[0].max_walltime == 750
    assert site.partitions[1].name == "012"
    assert site.form.fix == {"cores": "4", "exclusive": "true"}


FORM = """\
form:
  fields:
    - {name: project, label: Project, required: true}
    - {name: size, label: Size, kind: choice, choices: {s: Small, l: Large}, default: s}
    - {name: copies, label: Copies, kind: number, minimum: 1, maximum: 9}
  hide: [qos]
  rename: {partition: Queue}
  fix: {account: physics}
  help: {project: Ask your group}
  presets:
    - {name: small, title: Small, values: {cores: 2, walltime: 1h}}
  rules:
    - {field: gpus, unless: {partition: [short]}, at_most: 0, message: GPUs are on short}
    - {field: size, when: {exclusive: ["true"]}, one_of: [l], message: Whole nodes are large}
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "where", "what"),
    [
        ("name: project", "name: cores", 3, "form.fields[0].name", "a field of the gateway's own"),
        ("name: project", "name: cluster", 3, "form.fields[0].name", "a field of the gateway's own"),
        ("name: size", "name: project", 4, "form.fields[1].name", "project is there twice"),
        ("choices: {s: Small, l: Large}, ", "", 4, "form.fields[1].choices", "a choice needs choices"),
        ("default: s", "default: m", 4, "form.fields[1].default", "'m' is not one of its choices: s, l"),
        ("kind: choice", "kind: text", 4, "form.fields[1].choices", "only a field of kind: choice"),
        ("minimum: 1", "minimum: 10", 5, "form.fields[2].minimum", "larger than maximum"),
        ("maximum: 9", "pattern: x", 5, "form.fields[2].pattern", "only a field of kind: text"),
        ("maximum: 9", "default: 0", 5, "form.fields[2].default", "less than 1"),
        ("label: Project", "label: Project, pattern: (a+)+", 3, "form.fields[0].pattern", "only follow"),
        ("hide: [qos]", "hide: [quos]", 6, "form.hide[0]", "the form has no field quos: it has account"),
        ("hide: [qos]", "hide: [project]", 6, "form.hide[0]", "must be filled in, but is hidden"),
        ("{partition: Queue}", "{queue: Queue}", 7, "form.rename.queue", "no field queue"),
        ("{account: physics}", "{walltime: soon}", 8, "form.fix.walltime", "write a walltime"),
        ("{account: physics}", "{partition: nosuch}", 8, "form.fix.partition", "there is short, long"),
        ("{account: physics}", "{exclusive: 'yes'}", 8, "form.fix.exclusive", "write true"),
        ("cores: 2", "cores: few", 11, "form.presets[0].values.cores", "a whole number"),
        ("cores: 2", "copies: 10", 11, "form.presets[0].values.copies", "more than 9"),
        ("field: gpus", "field: gpu", 13, "form.rules[0].field", "no field gpu:"),
        ("at_most: 0, ", "", 13, "form.rules[0]", "needs at_least, at_most or one_of"),
        ("at_most: 0", "at_most: none", 13, "form.rules[0].at_most", "a whole number"),
        ("partition: [short]", "partition: [shrt]", 13, "form.rules[0].unless.partition[0]", "no partition"),
        ("field: gpus", "field: account", 13, "form.rules[0].at_most", "account has no order"),
        ("one_of: [l]", "one_of: [xl]", 14, "form.rules[1].one_of[0]", "not one of its choices"),
    ],
)
def test_the_form_speaks_of_fields_that_are_there_and_of_values_that_they_can_have(
    old: str, new: str, line: int, where: str, what: str
) -> None:
    parse_site_config(GOOD + FORM, "site.yaml")
    assert FORM.count(old) == 1
    with pytest.raises(ConfigError) as caught:
        parse_site_config(GOOD + FORM.replace(old, new), "site.yaml")
    first = str(caught.value).splitlines()[0]
    assert first.startswith(f"site.yaml:{line + len(GOOD.splitlines())}: {where}: ")
    assert what in first


def test_a_hidden_field_may_be_required_if_it_is_fixed() -> None:
    text = FORM.replace("[qos]", "[project]").replace("account: physics", "project: p1")
    assert parse_site_config(GOOD + text, "site.yaml").form.fix == {"project": "p1"}


@pytest.mark.parametrize(
    "pattern",
    ["", "p[0-9]{4}", r"^[A-Za-z]\w*(?:\.x|-y)?$", r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", r"[^\]a-]+\$"],
)
def test_patterns_that_are_quick_everywhere(pattern: str) -> None:
    assert pattern_fault(pattern) == ""


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+", "(a|a){9}", "a**", "a*?", "*a", "(?=a)", r"(a)\1", r"\s", "a{2", "(", "[z-a]", "a|*"),
        *("a*a*a*", "a?" * 17, "(a|a)" * 17, "x{1,200}" * 3, r"\Z", "(?i)a", "a^b", "a$b"),
    ],
)
def test_patterns_that_could_be_slow_or_differ_in_a_browser_are_refused(pattern: str) -> None:
    assert pattern_fault(pattern)


def test_a_drop_in_says_nothing_of_how_the_cluster_is_reached() -> None:
    text = "version: 1\nlogin:\n  hosts: [evil]\naccounts: [a]\nscheduler: local\n"
    with pytest.raises(ConfigError) as caught:
        parse_drop_in(text, "site.d/a.yaml")
    own = "this belongs into the gateway's own site config; a drop-in cannot change it"
    assert str(caught.value) == f"site.d/a.yaml:2: login: {own}\nsite.d/a.yaml:5: scheduler: {own}"
    with pytest.raises(ConfigError, match=r"a\.yaml:1: version: Field required"):
        parse_drop_in("accounts: [a]", "a.yaml")
    assert parse_drop_in("version: 1\naccounts: [a]", "a.yaml").accounts == ("a",)


def test_a_file_cannot_make_a_fault_look_like_two() -> None:
    for text in ('"a\\ngood.yaml:1: fine\\e[2J": x', '"a\\nb": x\n"a\\nb": y', f"{'x' * 9000}: y"):
        with pytest.raises(ConfigError) as caught:
            parse_drop_in(f"version: 1\n{text}\n", "a.yaml")
        (line,) = str(caught.value).splitlines()
        assert line.startswith("a.yaml:")
        assert line.isprintable()
        assert len(line) < 500


JUMP = "  jump: {host: gate.example.org, user: hop}\n"


def test_a_jump_host_is_for_ssh_only() -> None:
    text = GOOD.replace("partitions:", f"{JUMP}partitions:", 1)
    jump = parse_site_config(text, "site.yaml").login.jump
    assert jump is not None
    assert (jump.host, jump.port, jump.user, jump.key) == ("gate.example.org", 22, "hop", None)
    direct = f"tunnel:\n  kind: direct\n{JUMP}partitions:"
    assert "tunnel.jump: tunnel: direct takes no jump" in fault("partitions:", direct)
    local = GOOD.replace(SSH, f"  transport: local\n  user: gateway\n{JUMP}") + "tunnel: direct\n"
    with pytest.raises(ConfigError, match=r"site\.yaml:8: login\.jump: transport: local takes no jump"):
        parse_site_config(local, "site.yaml")


def test_all_faults_are_told_at_once() -> None:
    text = fault("4h", "soon\n    foo: 1")
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize("text", ["", "- a", "just words", "\x00"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^site\.yaml:1: "):
        parse_site_config(text, "site.yaml")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("30m", 30), ("4h", 240), ("2d", 2880), ("01:30", 90), ("00:00:01", 1), ("1-00:00:00", 1440)],
)
def test_walltimes(text: str, minutes: int) -> None:
    assert parse_walltime(text) == minutes


@pytest.mark.parametrize("text", ["", "0m", "-1h", "1h30", "4", "1.5h", "٣h", "00:00:00"])
def test_what_is_no_walltime(text: str) -> None:
    with pytest.raises(ValueError, match="walltime"):
        parse_walltime(text)


def test_memory() -> None:
    assert [parse_memory(text) for text in ("512M", "4G", "1TiB")] == [512, 4096, 1048576]
    for text in ("", "0G", "4", "1.5G", "-1G"):
        with pytest.raises(ValueError, match="memory"):
            parse_memory(text)


def test_a_directory_of_site_configs(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    assert list(load_sites(tmp_path)) == ["cascade"]
    (tmp_path / "b.yaml").write_text(GOOD.replace("4h", "soon"))
    (tmp_path / "c.yaml").write_bytes(b"version: 1\nname: \xff")
    with pytest.raises(ConfigError) as caught:
        load_sites(tmp_path)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        f"{tmp_path}/b.yaml:13",
        f"{tmp_path}/c.yaml:2",
    ]


def test_an_empty_directory_and_a_missing_file_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no site config"):
        load_sites(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_site(tmp_path / "nosuch.yaml")


def test_every_example_is_valid() -> None:
    examples = Path(__file__).parents[2] / "site-configs"
    found = sorted(examples.glob("*.yaml"))
    assert found
    for path in found:
        load_site(path)


# --- of very much, only so much is read -------------------------------------------------------------


def test_of_very_many_faults_the_first_are_told_and_how_many_there_are() -> None:
    text = "version: 1\n" + "".join(f"k{number}: 1\n" for number in range(9_000))
    with pytest.raises(ConfigError) as raised:
        parse_drop_in(text, "a.yaml")
    lines = str(raised.value).split("\n")
    assert lines[0] == "a.yaml:2: k0: there is no such key"
    assert (len(lines), lines[-1]) == (51, "a.yaml:52: and 8950 more")


def test_a_file_has_only_so_many_keys_and_values() -> None:
    with pytest.raises(ConfigError, match=r"a.yaml:2: there are more than 20,000 keys and values"):
        parse_drop_in(f"version: 1\naccounts: [{'a,' * 21_000}]\n", "a.yaml")


def many(item: str, count: int = 2_000) -> str:
    """Return a list of items with a number each in place of the N."""
    return f"[{','.join(item.replace('N', str(number)) for number in range(count))}]"


def named(item: str, count: int = 2_000) -> str:
    """Return a mapping in the same way."""
    return f"{{{many(item, count)[1:-1]}}}"


LARGE = {
    "hidden": f"form: {{fields: {many('{name: fN, label: a, required: true}')}, hide: {many('fN')}}}\n",
    "choices": f"form: {{fields: [{{name: f, label: a, kind: choice, choices: {named('cN: a', 4_000)}}}], "
    f"rules: [{{field: f, message: a, one_of: {many('d', 4_000)}}}]}}\n",
    "names": f"form: {{fields: {many('{name: fN, label: a}')}, hide: {many('gN', 4_000)}}}\n",
    "short": f"applications: {many('{name: aN, title: a, command: []}')}\n",
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_checking_takes_half_as_long_as_reading(text: str) -> None:
    """However many faults there are: a thread of the hub does it, and holds the others up."""
    text = f"version: 1\n{text}"
    assert len(text) <= 128 * 1024
    began = time.process_time()
    root = reading.document(text, "a.yaml")
    read = time.process_time() - began
    began = time.process_time()
    with suppress(ConfigError):
        reading.validated(DropIn, root, cross_faults)
    assert time.process_time() - began < max(read / 2, 0.5)


RELAY = """\
version: 1
applications:
  - {name: web, title: Web, command: [web, "--at={socket}"], tls: relay}
"""


@pytest.mark.parametrize(
    ("old", "new"), [("{socket}", "8888"), ("{socket}", "{socket},{port}"), ("{socket}", "{sock}")]
)
def test_a_relay_has_to_know_where_the_application_listens(old: str, new: str) -> None:
    assert parse_drop_in(RELAY, "a.yaml").applications[0].tls == "relay"
    with pytest.raises(ConfigError, match=r"^a.yaml:3: applications\[0\].command: .*one of {socket}"):
        parse_drop_in(RELAY.replace(old, new), "a.yaml")


def test_a_relay_does_not_let_in_the_whole_network() -> None:
    """Where the node leg is plain nobody shows a certificate, and the application asks for nothing."""
    site = GOOD.partition("applications:")[0] + RELAY.partition("\n")[2]
    assert parse_site_config(site, "a.yaml").applications[0].tls == "relay"
    plain = site.replace("partitions:", "tunnel: {node_security: plain}\npartitions:", 1)
    with pytest.raises(ConfigError, match=r"tls: relay needs tunnel\.node_security"):
        parse_site_config(plain, "a.yaml")


@pytest.mark.parametrize(
    ("tunnel", "what"),
    [
        ("{node_security: ssh}", "tunnel.nodes: node_security: ssh needs nodes.known_hosts"),
        (
            "{kind: direct, node_security: ssh, nodes: {known_hosts: /k}}",
            "tunnel.nodes: node_security: ssh goes by the login nodes",
        ),
        ("{nodes: {known_hosts: /k}}", "tunnel.nodes: nodes is for node_security: ssh"),
        (
            "{node_security: ssh, nodes: {known_hosts: /k, sockets: /tmp/all}}",
            "tunnel.nodes.sockets: it must hold %u",
        ),
    ],
)
def test_what_the_way_by_ssh_to_the_nodes_needs_is_said(tunnel: str, what: str) -> None:
    assert fault("partitions:", f"tunnel: {tunnel}\npartitions:").startswith(f"site.yaml:11: {what}")
