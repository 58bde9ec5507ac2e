"""The doctor's own ways: what its steps conclude, in which order they are taken, and how it is printed."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from traitlets.config import Config

import gateway
from gateway.commands.doctor import _Told
from gateway.config import Settings
from gateway.discovery import Discovery, Room
from gateway.doctor import certificate, examination, show, vouching
from gateway.doctor import host as host_steps
from gateway.doctor.batch import Batch, compare, read_settings
from gateway.doctor.check import Check, Finding, Status, any_of, not_ok, ok, skipped, warning, worst
from gateway.doctor.disk import explain
from gateway.doctor.here import Here, read_ports, read_skew
from gateway.doctor.host import Host, Proxy
from gateway.doctor.job import NOT_TAKEN, JobWalk, refusal
from gateway.doctor.kinds import kind_of
from gateway.doctor.listening import Holder
from gateway.doctor.logins import silent_or_worst
from gateway.doctor.patient import Patient
from gateway.doctor.people import People
from gateway.doctor.running import lock_holder, open_files
from gateway.doctor.said import Said
from gateway.doctor.scratch import clear_up, scratch
from gateway.doctor.walk import Step, in_thread, walk
from gateway.errors import LoginNodeRefused, LoginNodeUnreachable, QueueUnreachable
from gateway.launcher import launcher_text, sudoers_text
from gateway.model import Choices, Completed, JobId
from gateway.siteconfig import SiteConfig, parse_drop_in, parse_site_config
from gateway.ssh.authority import UserAuthority
from gateway.ssh.runner import Replay
from gateway.ssh.transport import Certified
from tests.unit.test_cli import LOCAL, Console, console

__all__ = ["console"]  # a fixture

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PEM = Path("/etc/gateway/tls.pem")


def found(finding: Finding) -> Callable[[], Awaitable[Finding]]:
    async def examine() -> Finding:
        return finding

    return examine


def ignore(_: Check) -> None:
    """Report nothing."""


# --- taking steps -----------------------------------------------------------------------------------------


async def test_what_needs_a_step_that_is_not_ok_is_skipped_and_says_because_of_which() -> None:
    steps = [
        Step("key", found(warning("loose", "chmod 600"))),
        Step("login", found(not_ok("no", "do")), ("key",)),
        Step("launcher", found(ok("there")), ("login",)),
        Step("act as", found(ok("there")), ("launcher",)),
        Step("clock", found(ok("right"))),
    ]
    checks = {check.name: check.finding for check in await walk(steps, ignore)}
    assert [finding.status for finding in checks.values()] == [
        "warning",
        "not ok",
        "skipped",
        "skipped",
        "ok",
    ]
    assert checks["launcher"].seen == "because login is not ok"
    assert checks["act as"].seen == "because launcher was skipped"


async def test_steps_that_do_not_need_each_other_are_taken_at_once_and_reported_in_order() -> None:
    async def slow() -> Finding:
        await asyncio.sleep(0.05)
        return ok("slow")

    names: list[str] = []
    begun = time.monotonic()
    await walk([Step(f"s{n}", slow) for n in range(20)], lambda check: names.append(check.name))
    assert time.monotonic() - begun < 0.5
    assert names == [f"s{n}" for n in range(20)]


async def test_a_step_that_hangs_is_named_and_costs_no_more_than_its_limit() -> None:
    async def hang() -> Finding:
        return await in_thread(lambda: time.sleep(1) or ok("late"))  # type: ignore[func-returns-value]

    begun = time.monotonic()
    (check,) = await walk([Step("directory", hang, within=0.05)], ignore)
    assert check.finding.status is Status.NOT_OK
    assert check.finding.seen == "no answer within 0.05 s"
    assert time.monotonic() - begun < 0.5


async def test_a_step_that_breaks_is_not_ok_and_the_others_go_on() -> None:
    async def refused() -> Finding:
        raise QueueUnreachable("squeue: no")

    async def broken() -> Finding:
        raise RuntimeError("oh")

    checks = await walk([Step("a", refused), Step("b", broken), Step("c", found(ok("fine")))], ignore)
    assert [check.finding.status for check in checks] == ["not ok", "not ok", "ok"]
    assert checks[0].finding.seen == "squeue: no"
    assert "RuntimeError: oh" in checks[1].finding.seen


async def test_a_step_after_others_waits_for_them_however_they_go() -> None:
    order: list[str] = []

    async def answered() -> Finding:
        await asyncio.sleep(0.02)
        order.append("answered")
        return not_ok("no", "")

    async def cancelled() -> Finding:
        order.append("cancelled")
        return ok("cancelled")

    checks = await walk([Step("answered", answered), Step("cancel", cancelled, after=("answered",))], ignore)
    assert order == ["answered", "cancelled"]
    assert checks[1].finding.status is Status.OK


def test_of_several_hosts_one_that_works_makes_the_others_a_warning() -> None:
    bad, good = not_ok("login2 is down", "start it"), ok("login1")
    assert worst([good, bad]).status is Status.NOT_OK
    assert any_of([good, bad]) == warning("login2 is down", "start it")
    assert any_of([bad, bad]).status is Status.NOT_OK
    assert any_of([good, good]).status is Status.OK


def test_a_login_node_that_shows_a_wrong_key_is_not_ok_although_another_is_fine() -> None:
    silent, wrong, good = warning("login2 is silent", "ask"), not_ok("another key", "compare"), ok("login1")
    assert silent_or_worst([silent, good]).status is Status.WARNING
    assert silent_or_worst([silent, silent]).status is Status.NOT_OK
    assert silent_or_worst([wrong, good]).status is Status.NOT_OK


# --- printing ---------------------------------------------------------------------------------------------

CHECKS = [
    Check("haproxy", ok("2.6.12"), 0.1),
    Check("lab: login", not_ok("svc is not let in", "ssh-keygen KEY\nssh -v login"), 2.04),
    Check("lab: clock", skipped("because lab: login is not ok")),
]


def test_a_step_is_a_line_and_below_it_what_to_type() -> None:
    assert [show.line(check) for check in CHECKS] == [
        "ok      haproxy: 2.6.12",
        "NOT OK  lab: login: svc is not let in (2.04 s)\n        → ssh-keygen KEY\n          ssh -v login",
        "skipped lab: clock: because lab: login is not ok",
    ]
    assert show.summary(CHECKS, 2.3) == "1 ok, 1 not ok, 1 skipped; 2.3 s"
    assert not show.all_ok(CHECKS)


def test_the_same_in_json() -> None:
    read = json.loads(show.document(CHECKS, 2.3))
    assert read["ok"] is False
    assert read["checks"][1] == {
        "name": "lab: login",
        "status": "not ok",
        "seen": "svc is not let in",
        "mend": "ssh-keygen KEY\nssh -v login",
        "seconds": 2.04,
    }


def test_a_configuration_that_cannot_be_read_is_the_one_step_that_is_not_ok(console: Console) -> None:
    console.configure("c.Gateway.bind = [")
    status, out, err = console.run("doctor", "-f", str(console.config))
    assert (status, err) == (1, "")
    assert out.splitlines()[0].endswith("gateway_config.py:4: '[' was never closed")
    assert "→ Correct " in out
    assert "skipped everything else: because configuration is not ok" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["doctor", "cascde"], "There is no cluster cascde; there is cascade."),
        (["doctor", "--user", "Root!"], "'Root!' is not an account's name."),
        (["doctor", "--job"], "Whose job? Name somebody who may use the gateway: --job --user NAME."),
    ],
)
def test_a_question_that_makes_no_sense_is_one_sentence(
    console: Console, words: list[str], sentence: str
) -> None:
    assert console.fault(*words, "-f", str(console.config)) == sentence


# --- the certificate --------------------------------------------------------------------------------------


def pem(names: list[str], *, ends: datetime = NOW + timedelta(days=60), other_key: bool = False) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gw")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=90))
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    kept = ec.generate_private_key(ec.SECP256R1()) if other_key else key
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return made.public_bytes(serialization.Encoding.PEM) + kept.private_bytes(*form)


def test_a_certificate_and_its_key_are_one_pair() -> None:
    good = pem(["gw.example.org"])
    assert certificate.pair(good, PEM).status is Status.OK
    assert "does not belong" in certificate.pair(pem(["gw.example.org"], other_key=True), PEM).seen
    head, begin, rest = good.partition(b"-----BEGIN PRIVATE KEY")
    assert "no private key" in certificate.pair(head, PEM).seen
    assert "no certificate" in certificate.pair(begin + rest, PEM).seen


def test_a_wildcard_stands_for_one_label_and_not_for_a_wildcard() -> None:
    both = ["gw.example.org", "*.gw.example.org"]
    assert certificate.covers(pem(both), both, PEM).status is Status.OK
    assert certificate.covers(pem(["*.example.org"]), ["gw.example.org"], PEM).status is Status.OK
    refused = certificate.covers(pem(["*.example.org"]), both, PEM)
    assert refused.seen == f"{PEM} is for *.example.org, not for *.gw.example.org"
    assert "layout = 'single'" in refused.mend


@pytest.mark.parametrize(
    ("ends", "status"),
    [(60, Status.OK), (13, Status.WARNING), (-1, Status.NOT_OK)],
)
def test_a_certificate_is_to_be_renewed_two_weeks_before_its_end(ends: int, status: Status) -> None:
    made = pem(["gw"], ends=NOW + timedelta(days=ends))
    assert certificate.lasts(made, NOW, PEM).status is status
    assert certificate.lasts(made, NOW - timedelta(days=91), PEM).status is Status.NOT_OK


# --- the login node ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "meaning", "mend"),
    [
        (
            "cannot create directory '/h': Read-only file system",
            "mounted read-only",
            "findmnt -T ~ann/.gateway",
        ),
        ("dd: error writing: Disk quota exceeded", "the quota of ann is used up", "quota -s -u ann"),
        ("No space left on device", "is full", "df -h ~ann/.gateway"),
        ("cannot create directory: Key has expired", "Kerberos or AFS", "login.state_dir: /scratch/%u"),
        ("Required key not available", "Kerberos or AFS", "site.yaml"),
        ("cannot create directory '/h': Permission denied", "root_squash", "namei -l ~ann/.gateway"),
        (
            "cannot create directory '/h/a': No such file or directory",
            "does not exist",
            "mkhomedir_helper ann",
        ),
        ("Key was rejected by service", "Kerberos or AFS", "site.yaml"),
        ("Operation not permitted", "root_squash", "namei -l ~ann/.gateway"),
        ("cannot go into /h", "root_squash", "namei -l ~ann/.gateway"),
        ("ann has no home directory", "does not exist", "mkhomedir_helper ann"),
        ("/h is a symbolic link", "not ann's own directory", "ls -ld ~ann/.gateway"),
        ("/h does not belong to ann", "not ann's own directory", "ls -ld ~ann/.gateway"),
        ("Stale file handle", "the file server does not answer", "findmnt"),
        ("Input/output error", "the file server does not answer", "findmnt"),
        ("Transport endpoint is not connected", "the file server does not answer", "findmnt"),
        ("Host is down", "the file server does not answer", "findmnt"),
        ("Connection timed out", "the file server does not answer", "findmnt"),
        ("something new", "cannot be written", "ls -ld"),
    ],
)
def test_why_a_state_directory_cannot_be_written_is_told_apart(words: str, meaning: str, mend: str) -> None:
    said = explain(words, "~/.gateway", "ann", "site.yaml")
    assert meaning in said[0]
    assert mend in said[1]


def test_a_clock_that_is_off_by_more_than_half_a_minute_is_told() -> None:
    assert read_skew(29.0, 0.01, "login").status is Status.OK
    assert read_skew(-31.0, 0.01, "login").seen == "the clock of login is 31 s behind this host's"
    assert read_skew(33.0, 5.0, "login").status is Status.OK  # it may be the network


@pytest.mark.parametrize(
    ("wanted", "ephemeral", "status"),
    [
        ((20000, 29999), (32768, 60999), Status.OK),
        ((30000, 40000), (32768, 60999), Status.WARNING),
        ((20000, 20050), (32768, 60999), Status.WARNING),
        ((20000, 29999), None, Status.WARNING),
    ],
)
def test_ports_that_the_kernel_hands_out_or_too_few_of_them_are_told(
    wanted: tuple[int, int], ephemeral: tuple[int, int] | None, status: Status
) -> None:
    assert read_ports(wanted, ephemeral, "site.yaml").status is status


def test_what_the_scheduler_said_of_the_comment_is_found_in_the_jobs_log() -> None:
    log = (
        "Unspecified error for job 2\n[I 2026-11-23 ServerApp] Serving notebooks\n"
        f"2026-11-23 16:31:42 gateway: {NOT_TAKEN}; trying again\n"
    )
    assert refusal(log) == "Unspecified error for job 2"
    assert refusal("2026-11-23 16:31:42 gateway: listening on cn1:20000\n") == ""
    wrapper = Path(gateway.__file__).parent / "templates/batch/wrapper.sh.j2"
    assert NOT_TAKEN in wrapper.read_text()


# --- the scheduler ----------------------------------------------------------------------------------------

ROOMS = (
    Room("debug", max_walltime=60, max_cores=8, max_memory=8000, gpus={"a100": 2}),
    Room("any", max_cores=4),
    Room("short", max_walltime=10, max_cores=4),
    Room("old", max_walltime=30, closed="DRAIN"),
)


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        ("{name: debug, max_walltime: 1h, max_cores: 8, max_memory: 8000M, gpus: {a100: 2}}", "ok", "debug"),
        ("{name: any, max_walltime: 30d, max_memory: 1T}", "ok", "any"),
        ("{name: short}", "ok", "short"),
        ("{name: short, max_walltime: 1h}", "not ok", "the form offers 1 hour, and Slurm allows 10 minutes"),
        ("{name: dbug, max_walltime: 1h}", "not ok", "Slurm has no partition dbug"),
        ("{name: debug, max_cores: 9}", "warning", "offers 9 cores, and its largest node has 8"),
        ("{name: debug, max_memory: 1T}", "warning", "of memory, and its largest node has"),
        ("{name: debug, gpus: {a100: 3}}", "warning", "3 GPUs of type a100, and no node has more than 2"),
        ("{name: debug, gpus: {v100: 1}}", "warning", "1 GPUs of type v100, and no node has more than 0"),
        ("{name: old, max_walltime: 30m}", "warning", "old is closed: DRAIN"),
    ],
)
def test_a_partition_is_compared_with_what_the_scheduler_says_of_it(
    said: str, status: str, words: str
) -> None:
    (wanted,) = parse_drop_in(f"version: 1\npartitions: [{said}]", "a.yaml").partitions
    finding = compare(wanted, Discovery(ROOMS).room(wanted.name), kind_of("slurm"), "site.yaml")
    assert finding.status == status
    assert words in finding.seen


def test_settings_of_slurm_are_read_by_name() -> None:
    text = "Configuration data as of 2026\nPrivateData      = jobs,usage\nSlurmdPort       = 6818\n"
    assert read_settings(text) == {"PrivateData": "jobs,usage", "SlurmdPort": "6818"}


class Known(Said):
    """What is said of a cluster, without asking."""

    def __init__(self, patient: Patient, discovery: Discovery) -> None:
        super().__init__(patient)
        self.known = discovery

    async def discovery(self) -> Discovery:
        return self.known

    async def site(self) -> SiteConfig:
        return self.patient.site


def batch(
    scheduler: str,
    *answers: Completed,
    act_as: str = "sudo",
    says: Mapping[str, Any] | None = None,
    **known: Any,
) -> Batch:
    login = SITE.login.model_copy(update={"act_as": act_as, "environment": {"SGE_ROOT": "/opt/sge"}})
    own = {"scheduler": scheduler, "login": login, "accounts": ("physics",)} | dict(says or {})
    site = SITE.model_copy(update=own)
    patient = Patient(site, "site.yaml", Replay(answers), "ann", Path("/nowhere"), Settings(Config(), "c"))
    return Batch(Known(patient, Discovery(**known)))


def stat_of(*names: str) -> Completed:
    return Completed(0, "".join(f"/usr/bin/{name}\n" for name in names))


@pytest.mark.parametrize(
    ("scheduler", "answers", "status", "words"),
    [
        (
            "slurm",
            [stat_of("sbatch", "squeue", "scancel", "scontrol", "sinfo"), Completed(0, "slurm 22.05\n")],
            "warning",
            "slurm 22.05 in /usr/bin, without sacct, which knows how jobs ended and sacctmgr, which knows",
        ),
        ("slurm", [stat_of("sbatch"), Completed(1)], "not ok", "has no squeue, scancel, scontrol, sinfo"),
        (
            "sge",
            [
                stat_of("qsub", "qstat", "qdel", "qalter", "qconf", "qacct", "qhost", "qrstat"),
                Completed(1, "SGE 8.1.9\nusage: qstat [options]\n"),
            ],
            "ok",
            "SGE 8.1.9 in /usr/bin",
        ),
        (
            "pbs",
            [
                stat_of("qsub", "qstat", "qdel", "qalter", "pbsnodes", "qselect", "pbs_rstat"),
                Completed(0, "pbs_version = 23.06\n"),
            ],
            "ok",
            "pbs_version = 23.06 in /usr/bin",
        ),
    ],
    ids=["slurm without accounting", "slurm elsewhere", "sge", "pbs"],
)
async def test_the_programs_of_each_scheduler_are_looked_for(
    scheduler: str, answers: list[Completed], status: str, words: str
) -> None:
    finding = await batch(scheduler, *answers).programs()
    assert finding.status == status
    assert words in finding.seen


@pytest.mark.parametrize(
    ("scheduler", "answer", "status"),
    [
        ("slurm", Completed(0, "Slurmctld(primary) at login is UP\n"), "ok"),
        ("slurm", Completed(0, "Slurmctld(primary) at login is DOWN\n"), "not ok"),
        ("pbs", Completed(0, "Server  Max\n"), "ok"),
        ("pbs", Completed(111, "", "Connection refused\n"), "not ok"),
        ("sge", Completed(0, "all.q\n"), "ok"),
        ("sge", Completed(124), "not ok"),
    ],
)
async def test_whether_a_scheduler_answers_is_asked_with_its_own_program_and_environment(
    scheduler: str, answer: Completed, status: str
) -> None:
    examined = batch(scheduler, answer)
    assert (await examined.answers()).status == status
    (call,) = cast("Replay", examined._patient.node).calls
    assert call.command.words[:3] == ("/usr/bin/env", "LC_ALL=C", "SGE_ROOT=/opt/sge")


@pytest.mark.parametrize(
    ("scheduler", "seen", "mend"),
    [
        ("slurm", "PrivateData = jobs hides other users' jobs from svc", "AdminLevel=Operator"),
        ("pbs", "query_other_jobs = False hides other users' jobs from svc", "set server operators += svc@*"),
    ],
)
async def test_hidden_jobs_are_told_with_what_they_cost_and_how_to_show_them(
    scheduler: str, seen: str, mend: str
) -> None:
    finding = await batch(scheduler, hidden=True).other_jobs()
    assert finding.status == "warning"
    assert finding.seen.startswith(seen)
    assert "one command for each person" in finding.seen
    assert mend in finding.mend
    assert (await batch(scheduler, hidden=False).other_jobs()).status == "ok"
    assert (await batch(scheduler, hidden=True, act_as="service").other_jobs()).status == "ok"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("    job_history_enable = True\n", "ok"),
        ("    job_history_enable = False\n", "warning"),
        ("", "warning"),
    ],
)
async def test_a_pbs_that_forgets_its_jobs_is_told(text: str, status: str) -> None:
    finding = await batch("pbs", Completed(0, f"Server: pbs\n{text}    scheduling = True\n")).ended_jobs()
    assert finding.status == status


async def test_what_of_the_cluster_cannot_be_seen_is_told() -> None:
    known = Discovery((Room("short", max_walltime=60),), faults=("exit status 1: qhost: no",)).rooms
    examined = batch("sge", rooms=known, faults=("exit status 1: qhost: no",))
    finding = await examined.partitions()
    assert finding.status == "warning"
    assert "not all of the cluster can be seen: exit status 1: qhost: no" in finding.seen
    assert (await batch("sge", faults=("none",)).partitions()).status == "not ok"


async def test_limits_that_slurm_does_not_enforce_are_told_and_hidden_partitions_are_there() -> None:
    config = Completed(0, "EnforcePartLimits       = NO\n")
    examined = batch("slurm", Completed(0, "short\n"), config, rooms=ROOMS[:2])
    finding = await examined.partitions()
    assert finding.status == "ok"
    assert finding.seen.startswith("short (hidden: its limits are not compared); EnforcePartLimits = NO")


@pytest.mark.parametrize(
    ("accounts", "status"),
    [
        (None, "skipped"),
        ({"ann": ("physics", "maths")}, "ok"),
        ({"ann": ("maths",)}, "warning"),
        ({}, "warning"),
    ],
)
async def test_a_persons_accounts_and_qos_are_compared_with_the_forms(
    accounts: dict[str, tuple[str, ...]] | None, status: str
) -> None:
    assert (await batch("slurm", accounts=accounts).accounts()).status == status
    examined = batch("slurm", says={"qos": ("physics", "chem")}, qos=accounts)
    assert (await examined.qos()).status == status


async def test_what_a_form_fixes_is_what_a_person_must_have() -> None:
    form = SITE.form.model_copy(update={"fix": {"account": "chem", "qos": ""}})
    says = {"form": form, "qos": ("high",)}
    examined = batch("slurm", says=says, accounts={"ann": ("physics",)}, qos={"ann": ("normal",)})
    found = await examined.accounts()
    assert found.seen == "ann has the accounts physics, the form chem"
    assert found.mend == "sacctmgr add user ann account=chem, or correct form.fix.account in site.yaml."
    assert (await examined.qos()).seen == "ann has normal"


# --- the drop-ins -----------------------------------------------------------------------------------------


def drop_ins(tmp_path: Path, *lines: str) -> Said:
    def field(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    site = tmp_path / "site.yaml"
    site.write_text(SITE_TEXT)
    rows = []
    for number, text in enumerate(lines):
        path = field(f"/etc/gateway/site.d/{number}.yaml")
        rows.append(f"gw1 file {path}. {path}. {len(text)} {field(text)}.\n")
    answer = Completed(0, f"gw1 node {field('login1')}.\n{''.join(rows)}gw1 end\n")
    return Said(Patient(SITE, str(site), Replay([answer]), "ann", tmp_path, Settings(Config(), "c")))


@pytest.mark.parametrize(
    ("text", "status", "seen"),
    [
        ("version: 1\naccounts: [maths]\n", "ok", "/etc/gateway/site.d/0.yaml"),
        (
            "version: 1\nlogin: {}\n",
            "not ok",
            "login1:/etc/gateway/site.d/0.yaml:2: login: this belongs into",
        ),
        ("version: 1\nscript: {header: '{{ nosuch }}'}\n", "not ok", "script.header"),
    ],
)
async def test_the_drop_ins_are_read_once_and_bad_ones_are_not_used(
    tmp_path: Path, text: str, status: str, seen: str
) -> None:
    said = drop_ins(tmp_path, text)
    finding = await said.drop_ins()
    assert finding.status == status
    assert seen in finding.seen
    assert (await said.site()).accounts == (("maths",) if status == "ok" else ())


# --- sudo -------------------------------------------------------------------------------------------------

SITE_TEXT = """\
version: 1
name: cascade
title: Cascade
scheduler: slurm
login: {hosts: [login1], user: svc, key: /etc/k, known_hosts: /etc/h, act_as: sudo}
partitions:
  - {name: short, max_walltime: 1h, max_cores: 4, max_memory: 8G}
applications:
  - {name: lab, title: JupyterLab, command: [jupyter, lab]}
"""
SITE = parse_site_config(SITE_TEXT, "site.yaml")
LISTED = "User svc may run:\n    (%people) NOPASSWD: /usr/local/sbin/gateway-launcher\n"
DEFAULTS = (
    "Matching Defaults entries for svc on login1:\n    env_reset, mail_badpass,\n"
    "    secure_path=/usr/sbin\\:/usr/bin, env_keep+=LANG, !requiretty, lecture\n\n"
)
ANYTHING = "User svc may run:\n    (%people) NOPASSWD: ALL\n"
BROKEN = LISTED.replace("NOPASSWD: ", "NOPASSWD:\n        ")
PASSWORD = Completed(1, stderr="sudo: a password is required\n")


def people(*answers: Completed) -> People:
    settings = Settings(Config(), "gateway_config.py")
    return People(Patient(SITE, "site.yaml", Replay(answers), "ann", Path("/nowhere"), settings))


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (Completed(0, LISTED), Status.OK, "svc may run it as (%people)"),
        (Completed(0, BROKEN), Status.OK, "svc may run it as (%people)"),
        (Completed(0, LISTED.replace("NOPASSWD", "NOSETENV: NOPASSWD")), Status.OK, "(%people)"),
        (Completed(0, LISTED.replace("(%", "(ALL) PASSWD: ALL\n    (%")), Status.OK, "(%people)"),
        (Completed(0, LISTED.replace("NOPASSWD", "SETENV: NOPASSWD")), Status.NOT_OK, "LD_PRELOAD"),
        (Completed(0, LISTED.replace("NOPASSWD:", "NOPASSWD: SETENV:")), Status.NOT_OK, "LD_PRELOAD"),
        (Completed(0, DEFAULTS.replace("env_reset", "!env_reset") + LISTED), Status.NOT_OK, "!env_reset"),
        (Completed(0, DEFAULTS.replace("lecture", "setenv") + LISTED), Status.NOT_OK, "Defaults setenv"),
        (Completed(0, DEFAULTS + LISTED), Status.OK, "(%people)"),
        (Completed(0, ANYTHING), Status.NOT_OK, "any program as (%people)"),
        (Completed(0, LISTED + "    (%people) NOPASSWD: ALL\n"), Status.NOT_OK, "any program as (%people)"),
        (Completed(0, LISTED[:-1] + ", ALL\n"), Status.NOT_OK, "any program as (%people)"),
        (Completed(0, LISTED.replace("gateway-launcher", "")), Status.NOT_OK, "all of /usr/local/sbin/ as"),
        (Completed(0, LISTED.replace("gateway-launcher", "gateway-*")), Status.NOT_OK, "all of /usr/local/"),
        (Completed(0, LISTED[:-1] + ", /bin/sh\n"), Status.WARNING, "/bin/sh as (%people)"),
        (Completed(0, LISTED.replace("%people", "ALL : ALL")), Status.NOT_OK, "as root too"),
        (Completed(0, LISTED.replace("gateway-launcher", "other")), Status.NOT_OK, "does not list it"),
        (PASSWORD, Status.NOT_OK, "a password is required"),
        (Completed(127), Status.NOT_OK, "there is no sudo on login1"),
    ],
)
async def test_what_sudo_lists_for_the_service_account_is_judged(
    answer: Completed, status: Status, words: str
) -> None:
    finding = await people(answer).sudo()
    assert finding.status is status
    assert words in finding.seen


async def test_against_a_rule_that_gives_too_much_there_are_the_lines_that_do_not() -> None:
    finding = await people(Completed(0, ANYTHING)).sudo()
    assert sudoers_text("svc", "people", SITE.login.launcher).rstrip() in finding.mend
    assert "gateway launcher --sudoers --account svc --group people --path " in finding.mend


@pytest.mark.parametrize(
    ("answer", "status"),
    [(PASSWORD, Status.OK), (Completed(77), Status.WARNING), (Completed(64), Status.NOT_OK)],
)
async def test_acting_as_root_has_to_be_refused_by_sudo_better_than_by_the_launcher(
    answer: Completed, status: Status
) -> None:
    assert (await people(answer).root_refused()).status is status


@pytest.mark.parametrize(
    ("mode", "owner", "status"),
    [
        ("755", "0", Status.OK),
        ("775", "0", Status.NOT_OK),
        ("757", "0", Status.NOT_OK),
        ("755", "7", Status.NOT_OK),
    ],
)
async def test_a_launcher_that_others_than_root_can_change_is_not_ok(
    mode: str, owner: str, status: Status
) -> None:
    path = SITE.login.launcher
    stat = Completed(0, f"{owner} {mode} {path}\n0 755 /usr/local/sbin\n0 1777 /tmp\n0 755 /\n")
    version = re.search(r"^VERSION=(\d+)$", launcher_text(), re.MULTILINE)
    assert version
    said = Completed(0, f"gateway-launcher {version[1]}\n")
    assert (await people(stat, said).launcher()).status is status


# --- the SSH CA -------------------------------------------------------------------------------------------


def certified_people(directory: Path, *, rotating: bool = False, trials: bool = True) -> Patient:
    authority = UserAuthority(directory / "ssh-ca")
    authority.make("ecdsa")
    if rotating:
        authority.prepare("ecdsa")
    login = SITE.login.model_copy(update={"act_as": "certificate"})
    site = SITE.model_copy(update={"login": login})
    settings = Settings(Config({"Gateway": {"state_dir": str(directory)}}), "gateway_config.py")
    return Patient(site, "site.yaml", Replay(()), "ann", directory, settings, trials=trials)


class Sshd:
    """A login node: takes the connection or raises; keeps who came, with which kind of key."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refusal: Exception | None = None) -> None:
        self.came: list[tuple[str, tuple[str, ...], str]] = []
        self.refusal = refusal
        monkeypatch.setattr(vouching, "connect", self)

    def __call__(self, login: Any, _limits: Any, _closing: Any, identity: Certified) -> Any:
        self.came.append((identity.user, login.hosts, identity.key().get_name()))
        if self.refusal:
            raise self.refusal
        return SimpleNamespace(close=lambda: None)


REFUSED = LoginNodeRefused("root@login1: a certificate for root is not accepted")
HALF = LoginNodeRefused("root@login1: the key was accepted, but the host asks for more than a key")


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (REFUSED, Status.OK),
        (None, Status.NOT_OK),
        (HALF, Status.NOT_OK),
        (LoginNodeUnreachable("login1: timed out"), Status.WARNING),
    ],
)
async def test_a_login_node_that_takes_a_certificate_for_root_is_not_ok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception | None, status: Status
) -> None:
    sshd = Sshd(monkeypatch, refusal)
    finding = await People(certified_people(tmp_path)).root_refused()
    assert finding.status is status
    assert [(user, hosts) for user, hosts, _ in sshd.came] == [("root", ("login1",))]
    assert (status is not Status.NOT_OK) or "Match User *,!root" in finding.mend


async def test_root_is_tried_only_where_a_login_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sshd = Sshd(monkeypatch, REFUSED)
    finding = await People(certified_people(tmp_path, trials=False)).root_refused()
    assert (finding.status, sshd.came) == (Status.SKIPPED, [])
    assert "gateway doctor cascade tries it" in finding.seen


@pytest.mark.parametrize(("cluster", "trials"), [(None, False), ("cascade", True)])
async def test_a_login_may_fail_at_a_cluster_that_is_named_alone(
    console: Console, monkeypatch: pytest.MonkeyPatch, cluster: str | None, trials: bool
) -> None:
    patients: list[Patient] = []

    def cluster_steps(patient: Patient, _: Said) -> list[Step]:
        patients.append(patient)
        return []

    monkeypatch.setattr(examination, "cluster_steps", cluster_steps)
    monkeypatch.setattr(Host, "steps", lambda _: [])
    places = {"site_dir": str(console.directory / "sites"), "state_dir": str(console.state)}
    settings = Settings(Config({"Gateway": places}), "c")
    await examination.examine(settings, examination.Question(cluster), lambda _: None)
    assert [patient.trials for patient in patients] == [trials]


@pytest.mark.parametrize(("refusal", "status"), [(None, Status.OK), (REFUSED, Status.WARNING)])
async def test_a_next_key_that_a_login_node_does_not_trust_yet_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception | None, status: Status
) -> None:
    sshd = Sshd(monkeypatch, refusal)
    finding = await vouching.Vouching(certified_people(tmp_path, rotating=True)).next_key()
    assert finding.status is status
    assert [user for user, _, _ in sshd.came] == ["ann"]
    assert (status is Status.OK) or "gateway ca show" in finding.mend


async def test_without_a_next_key_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sshd = Sshd(monkeypatch)
    finding = await vouching.Vouching(certified_people(tmp_path)).next_key()
    assert (finding.status, sshd.came) == (Status.SKIPPED, [])


# --- the site configs -------------------------------------------------------------------------------------


async def test_clusters_that_one_gateway_must_not_serve_are_not_ok() -> None:
    local, settings = parse_site_config(LOCAL, "workstation.yaml"), Settings(Config(), "c")
    assert (await Host(settings, {local.name: local}).site_configs()).status is Status.OK
    finding = await Host(settings, {local.name: local, SITE.name: SITE}, "x.yaml:1: bad").site_configs()
    assert finding.status is Status.NOT_OK
    fault, together = finding.seen.splitlines()
    assert fault == "x.yaml:1: bad"
    assert "those of cascade too: give workstation a gateway of its own" in together


# --- the applications -------------------------------------------------------------------------------------

THERE = "module: loaded\ngateway-doctor: found\n"


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (Completed(0, THERE + "4.2.1\n"), Status.OK, "jupyter lab 4.2.1"),
        (Completed(124, THERE), Status.OK, "takes more than"),
        (Completed(124, "module: loading\n"), Status.WARNING, "the prologue takes more than 8 s"),
        (Completed(137), Status.WARNING, "the prologue takes more than 8 s"),
        (Completed(0, "bye\n"), Status.WARNING, "the prologue ends the shell"),
        (Completed(127), Status.WARNING, "jupyter lab is not there"),
    ],
)
async def test_an_application_is_there_only_if_it_was_found_after_the_prologue(
    answer: Completed, status: Status, words: str
) -> None:
    patient = people(answer).patient
    finding = await Here(patient, Known(patient, Discovery())).applications()
    assert finding.status is status
    assert words in finding.seen


async def test_ports_that_cannot_be_looked_at_are_not_ok() -> None:
    patient = people(Completed(1)).patient
    assert (await Here(patient, Said(patient)).ports()).status is Status.WARNING


# --- what runs here ---------------------------------------------------------------------------------------


def test_who_holds_a_lock_is_told_without_taking_it(tmp_path: Path) -> None:
    file = tmp_path / "hub.lock"
    assert lock_holder(file) is None
    with file.open("w") as held:
        assert lock_holder(file) is None
        fcntl.flock(held, fcntl.LOCK_EX)
        assert lock_holder(file) == os.getpid()
    assert lock_holder(file) is None


def test_the_limit_of_open_files_is_a_running_processes() -> None:
    with subprocess.Popen(["/bin/sh", "-c", "ulimit -n 123; echo; read x"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert open_files(process.pid) == 123
        process.kill()


@pytest.mark.parametrize(
    ("user", "command", "answers", "status"),
    [
        ("me", "/run/gateway/haproxy/haproxy.cfg", True, Status.OK),
        ("me", "/run/gateway/haproxy/haproxy.cfg", False, Status.WARNING),
        ("daemon", "/run/gateway/haproxy/haproxy.cfg", True, Status.NOT_OK),
        ("me", "/etc/haproxy.cfg", True, Status.NOT_OK),
    ],
)
def test_the_public_port_is_the_gateways_own_only_where_its_user_holds_it_and_haproxy_answers(
    monkeypatch: pytest.MonkeyPatch, user: str, command: str, answers: bool, status: Status
) -> None:
    def taken(_host: str, _port: int) -> None:
        raise OSError(98, "Address already in use")

    name = pwd.getpwuid(os.getuid()).pw_name if user == "me" else user
    monkeypatch.setattr(host_steps, "holders", lambda _: [Holder(name, 7, ("haproxy", "-f", command))])
    monkeypatch.setattr(host_steps, "_bind", taken)
    finding = host_steps._listener(":443", Proxy("/run/gateway/haproxy", None, answers), "conf")
    assert finding.status is status


# --- what is left behind ----------------------------------------------------------------------------------


def test_what_killed_doctors_left_is_cleared_up_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, young, other = (tmp_path / name for name in ("gw-doctor-left", "gw-doctor-young", "else"))
    control = left / "t/lab/0/ctl"
    for directory in (left, young, other):
        directory.mkdir(mode=0o700)
    control.parent.mkdir(parents=True)
    words = [sys.executable, "-c", "print(flush=True); input()", "-M", "-S", str(control)]
    with subprocess.Popen(words, stdin=-1, stdout=-1) as master, scratch() as running:
        assert master.stdout
        master.stdout.readline()  # its command line is in /proc only once it runs
        for directory in (left, other, running):
            os.utime(directory, (time.time() - 60,) * 2)
        clear_up()
        assert master.wait(5) == -signal.SIGKILL
        assert sorted(tmp_path.iterdir()) == sorted([young, other, running])
        os.utime(running, (time.time() - 7200,) * 2)
        clear_up()
        assert sorted(tmp_path.iterdir()) == sorted([young, other])
        running.mkdir()  # for its own end


async def test_a_second_signal_does_not_end_the_clearing_up() -> None:
    told, cleared = _Told(), False

    async def examination() -> None:
        nonlocal cleared
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.01)
            cleared = True

    task = asyncio.create_task(examination())
    await asyncio.sleep(0)
    told.end(task, signal.SIGHUP)
    await asyncio.sleep(0)
    told.end(task, signal.SIGTERM)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (cleared, told.signal) == (True, signal.SIGHUP)


@pytest.mark.parametrize("trouble", ["tunnel", "job"])
async def test_of_a_job_and_its_tunnel_each_is_taken_away_although_the_other_cannot_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    done: list[str] = []

    async def stop() -> None:
        done.append("tunnel")
        if trouble == "tunnel":
            raise OSError("no ssh")

    async def cancel(*_: object) -> None:
        done.append("job")
        if trouble == "job":
            raise QueueUnreachable("no scancel")

    async def remove(*_: object) -> None:
        done.append("files")

    parts = SimpleNamespace(
        queue=SimpleNamespace(cancel=cancel, remove=remove),
        tunnel=SimpleNamespace(stop=stop),
        scheduler=None,
    )
    patient = Patient(SITE, "s", Replay(()), "ann", tmp_path, Settings(Config(), "c"))
    walk_ = JobWalk(patient, cast("Any", parts), cast("Choices", None), Said(patient))
    walk_._left, walk_._job_id = True, JobId("7")
    await walk_.__aexit__(None, None, None)
    assert done == (["job", "files", "tunnel"] if trouble == "tunnel" else ["job", "tunnel"])
    assert "is left behind" in caplog.text
