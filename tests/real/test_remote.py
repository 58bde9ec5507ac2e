"""What is sent to a login node's shell and how its answer is read, tried on the real shells."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import HostKeyRefused
from gateway.model import Command, Completed
from gateway.ssh.known_hosts import HostKey, KnownHosts, address
from gateway.ssh.remote import Answer, program
from gateway.ssh.runner import AnswerLost

NONCE = "5b6e5cfa0a1148dd"
SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]


def run(shell: str, command: Command, stdin: bytes = b"", limit: int = 10) -> tuple[bytes, bytes]:
    text = program(command, stdin=stdin, limit=limit, nonce=NONCE)
    done = subprocess.run([shell], input=text, capture_output=True, timeout=30, check=False)
    return done.stdout, done.stderr


def read(stdout: bytes, stderr: bytes) -> Completed:
    answer = Answer(NONCE)
    answer.feed(stdout=stdout, stderr=stderr)
    return answer.completed()


@pytest.mark.parametrize("shell", SHELLS)
def test_status_and_both_streams_come_back_exactly(shell: str) -> None:
    command = Command(("/bin/sh", "-c", "printf 'out\\n\\n'; printf err >&2; exit 7"))
    assert read(*run(shell, command)) == Completed(7, "out\n\n", "err")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_command_without_input_does_not_read_the_program(shell: str) -> None:
    assert read(*run(shell, Command(("cat",)))) == Completed(0, "", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_input_of_any_bytes_but_nul_arrives_whole(shell: str) -> None:
    data = b"$HOME `id` \\ '\"\nEOF\n" + bytes(range(1, 256)) * 1000 + b"\n"
    stdout, _ = run(shell, Command(("od", "-An", "-v", "-tx1")), data)
    answer = Answer(NONCE)
    answer.feed(stdout=stdout, stderr=run(shell, Command(("true",)))[1])
    assert bytes.fromhex(answer.completed().stdout) == data


@pytest.mark.parametrize("shell", SHELLS)
def test_a_program_cut_short_runs_nothing(shell: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    canary = tmp_path_factory.mktemp("cut") / "canary"
    text = program(Command(("touch", str(canary))), stdin=b"data\n" * 9, limit=5, nonce=NONCE)
    for length in range(0, len(text) - 3, 5):
        subprocess.run([shell], input=text[:length], capture_output=True, check=False)
        assert not canary.exists(), text[:length]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_command_over_its_limit_has_status_124(shell: str) -> None:
    assert read(*run(shell, Command(("sleep", "20")), limit=1)).status == 124


@pytest.mark.parametrize("shell", SHELLS)
def test_a_program_that_is_missing_has_status_127(shell: str) -> None:
    assert read(*run(shell, Command(("/no/such/program",)))).status == 127


@settings(max_examples=25, deadline=None)
@given(words=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
def test_words_never_become_syntax(words: list[str]) -> None:
    stdout, stderr = run(SHELLS[0], Command(("printf", "<%s>", "", *words)))
    assert read(stdout, stderr).stdout == "".join(f"<{word}>" for word in ["", *words])


def test_what_a_shell_prints_before_is_ignored() -> None:
    stdout, stderr = run(SHELLS[0], Command(("echo", "4711")))
    noise = b"Welcome to the cluster!\ngw1-begin-0123\nno newline at the end"
    assert read(noise + stdout, noise + stderr) == Completed(0, "4711\n", "")


def test_an_answer_cut_anywhere_is_a_failure_and_never_an_empty_success() -> None:
    stdout, stderr = run(SHELLS[0], Command(("/bin/sh", "-c", "echo out; echo err >&2")))
    for length in range(len(stdout) - 1):
        with pytest.raises(AnswerLost):
            read(stdout[:length], stderr)
    for length in range(len(stderr) - 1):
        with pytest.raises(AnswerLost):
            read(stdout, stderr[:length])
    with pytest.raises(AnswerLost):
        read(b"", b"")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_an_answer_may_come_in_pieces(size: int) -> None:
    stdout, stderr = run(SHELLS[0], Command(("echo", "hello" * 50)))
    answer = Answer(NONCE)
    for start in range(0, max(len(stdout), len(stderr)), size):
        assert not answer.complete
        answer.feed(stdout=stdout[start : start + size], stderr=stderr[start : start + size])
    assert answer.complete
    assert answer.completed().stdout == "hello" * 50 + "\n"


def test_another_nonce_ends_nothing() -> None:
    stdout, stderr = run(SHELLS[0], Command(("echo", "\ngw1-end-0000 0\nstill")))
    assert read(stdout, stderr).stdout == "\ngw1-end-0000 0\nstill\n"


def test_too_long_an_answer_is_given_up() -> None:
    answer = Answer(NONCE, largest=100)
    with pytest.raises(AnswerLost):
        answer.feed(stdout=b"x" * 101)


def test_bytes_that_are_not_text_do_not_break_an_answer() -> None:
    stdout, stderr = run(SHELLS[0], Command(("printf", "\\377ok")))
    assert read(stdout, stderr).stdout == "\ufffdok"


@pytest.mark.parametrize("stdin", [b"a\0b", f"gw1-data-{NONCE}\n".encode()])
def test_input_that_no_shell_carries_is_refused(stdin: bytes) -> None:
    with pytest.raises(ValueError, match="NUL byte or the nonce"):
        program(Command(("cat",)), stdin=stdin, limit=1, nonce=NONCE)


# --- host keys ------------------------------------------------------------------------------------

ED = HostKey("ssh-ed25519", "AAAAC3NzaC1lZDI1NTE5AAAAIJjPbd+O2V3ZfSUmGn4T1NkbqUE5j0yLRwKGv0b7jFCh")
OTHER = HostKey("ssh-ed25519", "AAAAC3NzaC1lZDI1NTE5AAAAIPjPbd+O2V3ZfSUmGn4T1NkbqUE5j0yLRwKGv0b7jFCh")


def known(text: str) -> KnownHosts:
    return KnownHosts.parse(text, "/etc/gateway/known_hosts")


@pytest.mark.parametrize(
    "line",
    [
        f"login1 {ED.type} {ED.base64} a comment",
        f"other,LOGIN1 {ED.type} {ED.base64}",
        f"login?,*.example.org {ED.type} {ED.base64}",
        f"@cert-authority * ssh-rsa AAAA\n# x\n\nnonsense\nlogin1 {ED.type} {ED.base64}",
    ],
)
def test_a_known_key_is_accepted(line: str) -> None:
    known(line).check("login1", ED)
    assert "ssh-ed25519" in known(line).types("login1"), "with a CA, certificates too"


def test_a_hashed_name_is_found() -> None:
    import base64
    import hashlib
    import hmac

    salt = b"12345678901234567890"
    digest = base64.b64encode(hmac.new(salt, b"[login1]:2222", hashlib.sha1).digest()).decode()
    line = f"|1|{base64.b64encode(salt).decode()}|{digest} {ED.type} {ED.base64}"
    known(line).check("[login1]:2222", ED)
    with pytest.raises(HostKeyRefused):
        known(line).check("login1", ED)


@pytest.mark.parametrize(
    "text", ["", f"login2 {ED.type} {ED.base64}", f"login?,!login1 {ED.type} {ED.base64}"]
)
def test_an_unknown_key_is_refused_with_the_line_to_add(text: str) -> None:
    with pytest.raises(HostKeyRefused) as caught:
        known(text).check(address("login1", 22), ED)
    assert "/etc/gateway/known_hosts" in str(caught.value)
    assert str(caught.value).endswith(f"add this line there: login1 {ED.type} {ED.base64}")
    assert ED.fingerprint in str(caught.value)


def test_on_another_port_the_line_names_it() -> None:
    with pytest.raises(HostKeyRefused) as caught:
        known(f"login1 {ED.type} {ED.base64}").check(address("login1", 2222), ED)
    assert str(caught.value).endswith(f": [login1]:2222 {ED.type} {ED.base64}")
    known(f"[login1]:2222 {ED.type} {ED.base64}").check(address("login1", 2222), ED)


def test_a_changed_key_is_refused_and_said_to_be_changed() -> None:
    with pytest.raises(HostKeyRefused, match="CHANGED") as caught:
        known(f"login1 {OTHER.type} {OTHER.base64}").check("login1", ED)
    assert ED.fingerprint in str(caught.value)
    assert OTHER.fingerprint in str(caught.value)


def test_a_revoked_key_is_refused_though_it_is_known() -> None:
    with pytest.raises(HostKeyRefused, match="@revoked"):
        known(f"login1 {ED.type} {ED.base64}\n@revoked * {ED.type} {ED.base64}").check("login1", ED)


def test_a_fingerprint_is_the_one_that_ssh_keygen_prints() -> None:
    if not shutil.which("ssh-keygen"):
        pytest.skip("needs ssh-keygen")
    done = subprocess.run(
        ["ssh-keygen", "-lf", "-"], input=f"{ED.type} {ED.base64}", capture_output=True, text=True, check=True
    )
    assert ED.fingerprint in done.stdout
