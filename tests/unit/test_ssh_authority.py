"""The SSH user CA: how its keys follow one another, what a certificate says, and who never gets one."""

from __future__ import annotations

import json
import logging
import pwd
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    SSHCertPublicKeyTypes,
    load_ssh_public_identity,
)

from gateway.errors import ConfigError, Forbidden
from gateway.ssh.authority import Terms, UserAuthority, UserCertificate, check_user
from gateway.ssh.cakeys import public_line, trusted_keys

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
LAUNCHER = "/usr/local/sbin/gateway-launcher --ssh"
TERMS = Terms("aaaaaa", "lab", LAUNCHER, minutes=5, source_addresses=("192.0.2.10", "2001:db8::/64"))


@pytest.fixture
def authority(tmp_path: Path) -> UserAuthority:
    made = UserAuthority(tmp_path / "ssh-ca")
    made.make("ecdsa", NOW)
    return made


def read(certificate: UserCertificate) -> SSHCertificate:
    found = load_ssh_public_identity(certificate.line.encode())
    assert isinstance(found, SSHCertificate)
    found.verify_cert_signature()
    return found


def openssh(key: SSHCertPublicKeyTypes) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def signer(certificate: UserCertificate) -> str:
    return openssh(read(certificate).signature_key())


# --- its keys -------------------------------------------------------------------------------------


def test_the_files_are_the_gateways_alone(authority: UserAuthority) -> None:
    authority.certify("alice", TERMS)
    assert stat.S_IMODE(authority.directory.stat().st_mode) == 0o700
    files = sorted(path.name for path in authority.directory.iterdir())
    assert files == ["keys.json", "serial"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in authority.directory.iterdir()} == {0o600}


@pytest.mark.parametrize(("kind", "type_"), [("ecdsa", "ecdsa-sha2-nistp256"), ("ed25519", "ssh-ed25519")])
def test_both_kinds_of_key_sign(tmp_path: Path, kind: str, type_: str) -> None:
    authority = UserAuthority(tmp_path / "ca")
    public = authority.make(kind).current.public
    assert public.split()[0] == type_
    assert signer(authority.certify("alice", TERMS)) == public


def test_there_is_one_ca_and_a_second_is_refused(authority: UserAuthority) -> None:
    before = authority.keys()
    with pytest.raises(ConfigError, match="gateway ca rotate"):
        authority.make("ecdsa")
    assert authority.keys() == before


def test_without_a_ca_the_command_that_makes_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gateway ca init"):
        UserAuthority(tmp_path / "none").keys()


def test_a_new_key_is_trusted_before_it_signs(authority: UserAuthority) -> None:
    first = authority.keys().current
    prepared = authority.prepare("ecdsa")
    assert prepared.current == first
    assert signer(authority.certify("alice", TERMS)) == first.public
    assert {first.public, prepared.next.public if prepared.next else ""} == keys_in(trusted_keys(prepared))
    finished = authority.finish()
    assert prepared.next is not None
    assert finished.current.public == prepared.next.public
    assert signer(authority.certify("alice", TERMS)) == prepared.next.public
    assert keys_in(trusted_keys(finished)) == {first.public, prepared.next.public}


def keys_in(file: str) -> set[str]:
    """Return the keys of a TrustedUserCAKeys file as sshd reads it."""
    lines = [line for line in file.splitlines() if line and not line.startswith("#")]
    return {" ".join(line.split()[:2]) for line in lines}


def test_the_private_key_that_signs_no_more_is_gone_at_the_next_rotation(authority: UserAuthority) -> None:
    old = authority.keys().current.private.splitlines()[2]
    authority.prepare("ecdsa")
    authority.finish()
    assert authority.prepare("ecdsa").previous is None
    assert old not in (authority.directory / "keys.json").read_text()


def test_a_finish_that_came_too_early_can_be_taken_back(authority: UserAuthority) -> None:
    first = authority.keys().current
    prepared = authority.prepare("ecdsa")
    finished = authority.finish()
    assert authority.back() == prepared
    assert signer(authority.certify("alice", TERMS)) == first.public
    assert authority.finish() == finished


def test_there_is_no_way_back_without_the_old_private_key(authority: UserAuthority) -> None:
    with pytest.raises(ConfigError, match="no previous key"):
        authority.back()
    authority.prepare("ecdsa")
    authority.finish()
    path = authority.directory / "keys.json"
    held = json.loads(path.read_text())
    held["previous"]["private"] = ""  # as it was written before there was a way back
    path.write_text(json.dumps(held))
    with pytest.raises(ConfigError, match="no previous key"):
        authority.back()


def test_what_a_killed_writer_left_of_the_keys_is_removed(authority: UserAuthority) -> None:
    left = authority.directory / ".keys.json.abcd1234"
    left.write_text("PRIVATE")
    authority.prepare("ecdsa")
    assert not left.exists()


def test_a_next_key_can_be_given_up(authority: UserAuthority) -> None:
    before = authority.keys()
    authority.prepare("ecdsa")
    assert authority.cancel() == before


def test_steps_out_of_turn_change_nothing(authority: UserAuthority) -> None:
    for step in (authority.finish, authority.cancel):
        with pytest.raises(ConfigError, match="no next key"):
            step()
    prepared = authority.prepare("ecdsa")
    with pytest.raises(ConfigError, match="--finish"):
        authority.prepare("ecdsa")
    assert authority.keys() == prepared


def test_a_step_that_is_interrupted_leaves_the_keys_as_they_were(
    authority: UserAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = authority.keys()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        authority.prepare("ecdsa")
    monkeypatch.undo()
    assert authority.keys() == before
    assert [path.name for path in authority.directory.iterdir()] == ["keys.json"]


@pytest.mark.parametrize(
    "content", ["", "{}", '{"current": null, "next": null, "previous": null}', '{"current": 1, "next": null}']
)
def test_a_damaged_file_is_told_and_signs_nothing(authority: UserAuthority, content: str) -> None:
    (authority.directory / "keys.json").write_text(content)
    with pytest.raises(ConfigError, match=r"ssh-ca: the SSH CA's files cannot be used"):
        authority.certify("alice", TERMS)


def test_a_private_key_of_another_public_one_is_refused(authority: UserAuthority, tmp_path: Path) -> None:
    other = UserAuthority(tmp_path / "other").make("ecdsa").current
    path = authority.directory / "keys.json"
    held = json.loads(path.read_text())
    held["current"]["private"] = other.private
    path.write_text(json.dumps(held))
    with pytest.raises(ConfigError, match="another one"):
        authority.keys()


def test_no_key_is_printed_by_accident(authority: UserAuthority) -> None:
    certificate = authority.certify("alice", TERMS)
    for thing in (authority, authority.keys(), certificate):
        assert "PRIVATE" not in repr(thing)
        assert "key=<" not in repr(thing)


def test_what_is_shown_says_which_key_is_which(authority: UserAuthority) -> None:
    authority.prepare("ed25519", NOW)
    lines = trusted_keys(authority.keys()).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("# signs; made 2030-01-02 03:04 UTC; SHA256:")
    assert lines[2].startswith("# next: ")
    if shutil.which("ssh-keygen"):
        done = subprocess.run(
            ["ssh-keygen", "-lf", "-"], input=lines[1], capture_output=True, text=True, check=True
        )
        assert done.stdout.split()[1] == lines[0].rpartition(" ")[2]


# --- a certificate --------------------------------------------------------------------------------


def test_a_certificate_names_one_user_for_minutes_from_these_addresses_and_one_program(
    authority: UserAuthority,
) -> None:
    certificate = authority.certify("alice", TERMS, NOW)
    found = read(certificate)
    assert found.type is SSHCertificateType.USER
    assert found.valid_principals == [b"alice"]
    assert found.valid_after == int((NOW - timedelta(minutes=1)).timestamp())
    assert found.valid_before == int((NOW + timedelta(minutes=5)).timestamp())
    assert found.critical_options == {
        b"force-command": LAUNCHER.encode(),
        b"source-address": b"192.0.2.10,2001:db8::/64",
    }
    assert found.extensions == {}
    assert found.key_id == b"gateway aaaaaa lab alice"
    assert found.serial == certificate.serial
    assert openssh(found.public_key()) == public_line(certificate.key)


def test_without_addresses_it_is_good_from_anywhere(authority: UserAuthority) -> None:
    found = read(authority.certify("alice", Terms("aaaaaa", "lab", LAUNCHER, 1)))
    assert list(found.critical_options) == [b"force-command"]


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")
def test_openssh_reads_it_the_same(authority: UserAuthority) -> None:
    line = authority.certify("alice", TERMS, NOW).line
    done = subprocess.run(
        ["ssh-keygen", "-Lf", "-"],
        input=line,
        capture_output=True,
        text=True,
        check=True,
        env={"TZ": "UTC", "PATH": "/usr/bin:/bin"},
    )
    words = [text.strip() for text in done.stdout.splitlines()]
    assert "Valid: from 2030-01-02T03:03:05 to 2030-01-02T03:09:05" in words
    assert words[words.index("Principals:") + 1] == "alice"
    assert "source-address 192.0.2.10,2001:db8::/64" in words
    assert f"force-command {LAUNCHER}" in words
    assert "Extensions: (none)" in words


def test_each_certificate_has_a_key_of_its_own(authority: UserAuthority) -> None:
    keys = {public_line(authority.certify("alice", TERMS).key) for _ in range(3)}
    assert len(keys) == 3


def test_serial_numbers_grow_and_never_come_twice(authority: UserAuthority) -> None:
    with ThreadPoolExecutor(8) as pool:
        serials = list(pool.map(lambda _: authority.certify("alice", TERMS, NOW).serial, range(24)))
    assert len(set(serials)) == 24
    later = UserAuthority(authority.directory).certify("alice", TERMS, NOW - timedelta(days=1)).serial
    assert later > max(serials)


def test_a_serial_number_is_new_though_the_file_is_an_old_backups(authority: UserAuthority) -> None:
    last = authority.certify("alice", TERMS, NOW).serial
    (authority.directory / "serial").write_text("7\n")
    assert authority.certify("alice", TERMS, NOW + timedelta(seconds=1)).serial > last


def test_no_certificate_is_made_whose_serial_number_is_not_on_the_disk(
    authority: UserAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    (authority.directory / "serial").mkdir()
    with caplog.at_level(logging.INFO, "gateway.audit"), pytest.raises(ConfigError, match="ssh-ca"):
        authority.certify("alice", TERMS)
    assert not caplog.records


def test_each_certificate_leaves_a_line_without_secrets(
    authority: UserAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "gateway.audit"):
        certificate = authority.certify("alice", TERMS, NOW)
    (line,) = caplog.messages
    for word in (
        f"serial {certificate.serial}",
        '"gateway aaaaaa lab alice"',
        "principal alice",
        "cluster lab",
        "2030-01-02T03:09:05",
        authority.keys().current.fingerprint,
    ):
        assert word in line
    assert certificate.line.split()[1] not in line


# --- who gets none --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "user",
    ["", "root", "slurm", "munge", "nobody", "Alice", "ａlice", "alice,root", "alice\n", "alice\nroot"],
)
def test_nobody_is_certified_who_is_no_person(
    authority: UserAuthority, caplog: pytest.LogCaptureFixture, user: str
) -> None:
    with caplog.at_level(logging.INFO, "gateway.audit"), pytest.raises(Forbidden):
        authority.certify(user, TERMS)
    assert not caplog.records
    assert not (authority.directory / "serial").exists()


def test_a_name_that_is_a_system_account_on_this_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def known(uid: int) -> None:
        entry = pwd.struct_passwd(("telegraf", "x", uid, uid, "", "/", "/bin/sh"))
        monkeypatch.setattr(pwd, "getpwnam", lambda _: entry)

    known(998)
    with pytest.raises(Forbidden, match="its uid here is 998"):
        check_user("telegraf")
    known(10001)
    check_user("telegraf")


# --- trials ---------------------------------------------------------------------------------------


def test_a_certificate_for_a_trial_is_for_nothing_and_for_a_minute(
    authority: UserAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "gateway.audit"):
        made = authority.certify_for_trial("root", TERMS, now=NOW)
    found = read(made)
    assert (found.valid_principals, found.critical_options[b"force-command"]) == ([b"root"], b"/bin/false")
    assert found.valid_before == int((NOW + timedelta(minutes=1)).timestamp())
    assert "principal root" in caplog.text
    with pytest.raises(Forbidden):
        authority.certify_for_trial("slurm", TERMS)


def test_a_certificate_of_the_next_key_is_for_a_trial_only(authority: UserAuthority) -> None:
    with pytest.raises(ConfigError):
        authority.certify_for_trial("alice", TERMS, by_next=True)
    prepared = authority.prepare("ecdsa", NOW)
    assert prepared.next is not None
    assert signer(authority.certify_for_trial("alice", TERMS, by_next=True)) == prepared.next.public
    assert signer(authority.certify("alice", TERMS)) == prepared.current.public
