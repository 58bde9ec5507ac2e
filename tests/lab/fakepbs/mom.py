"""What runs on a node: starts jobs as their owners, signals them, says how they end."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import wire
from .jobs import seconds

_WALLTIME, _SIGNALLED = -29, 256


@dataclass
class Running:
    """A job that this node runs: its first process leads a session."""

    spec: dict[str, Any]
    pid: int
    began: float
    script: Path
    kill_at: float = 0.0
    over_walltime: bool = False


class Mom:
    """One node's daemon."""

    def __init__(self, node: str) -> None:
        home = Path(wire.config()["PBS_HOME"])
        self.directory = home / "mom" / node
        self.scripts = home / "mom"
        self.node = node
        self.running: dict[str, Running] = {}

    def look(self) -> None:
        """Take what the server has left, and say what has changed."""
        for path in sorted(self.directory.glob("*.job")):
            spec = json.loads(path.read_text())
            path.unlink()
            self._start(spec)
        for path in self.directory.glob("*.signal"):
            identifier = path.name.removesuffix(".signal")
            if (self.directory / f"{identifier}.job").exists():
                continue  # it came after the look above: the job is started first
            word, job = path.read_text(), self.running.get(identifier)
            path.unlink()
            if job:
                self._end(job, signal.Signals[f"SIG{word}"])
        for identifier, job in list(self.running.items()):
            self._watch(identifier, job)

    def _watch(self, identifier: str, job: Running) -> None:
        limit = seconds(job.spec["attributes"]["Resource_List.walltime"])
        if not job.kill_at and time.monotonic() - job.began > limit:
            job.over_walltime = True
            self._end(job, signal.SIGTERM)
        if job.kill_at and time.monotonic() > job.kill_at:
            job.kill_at = time.monotonic() + 1
            _signal_session(job.pid, signal.SIGKILL)
        ended, status = os.waitpid(job.pid, os.WNOHANG)
        if not ended:
            return
        _signal_session(job.pid, signal.SIGKILL)
        del self.running[identifier]
        job.script.unlink(missing_ok=True)
        code = os.waitstatus_to_exitcode(status)
        self._say(
            identifier, exit=_WALLTIME if job.over_walltime else code if code >= 0 else _SIGNALLED - code
        )

    def _end(self, job: Running, number: signal.Signals) -> None:
        job.kill_at = job.kill_at or time.monotonic() + job.spec["kill_delay"]
        _signal_session(job.pid, number)

    def _say(self, identifier: str, **word: Any) -> None:
        new = self.directory / f".{identifier}.word"
        new.write_text(json.dumps(word))
        new.replace(self.directory / f"{identifier}.word")

    def _start(self, spec: dict[str, Any]) -> None:
        account = pwd.getpwuid(spec["uid"])
        attributes = spec["attributes"]
        path = attributes["Output_Path"].partition(":")[2]
        if path.endswith("/"):
            path = f"{path}{spec['id']}.OU"
        ready, told = os.pipe()
        copy = Path(f"/var/tmp/pbs.{spec['id']}.{secrets.token_hex(4)}.SC")
        pid = os.fork()
        if not pid:
            try:
                self._become(account, spec, path, copy, told)
            finally:
                os._exit(254)
        os.close(told)
        with os.fdopen(ready, "rb") as pipe:
            opened = pipe.read(1) == b"+"
        if not opened:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self._say(spec["id"], **({"exit": _SIGNALLED - code} if code < 0 else {"held": True}))
            return
        self.running[spec["id"]] = Running(spec, pid, time.monotonic(), copy)
        self._say(spec["id"], session=pid)

    def _become(
        self, account: pwd.struct_passwd, spec: dict[str, Any], path: str, copy: Path, told: int
    ) -> None:
        """Become the job: a session, the owner's account, the output, the shell."""
        os.setsid()
        attributes = spec["attributes"]
        script = (self.scripts / f"{spec['id']}.script").read_bytes()
        copy.write_bytes(script)
        os.chown(copy, account.pw_uid, account.pw_gid)
        copy.chmod(0o700)
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        os.umask(int(attributes.get("umask", "77"), 8))
        output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        if attributes["Join_Path"] != "oe":
            errors = os.open(f"{path}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        else:
            errors = output
        os.chdir(account.pw_dir)
        os.write(told, b"+")
        environment = self._environment(account, spec)
        shell = spec["shell"] or account.pw_shell
        ready, told = os.pipe()
        if not spec["shell"]:
            os.write(told, f"{copy}\n".encode())
        os.close(told)
        for number, descriptor in enumerate((ready, output, errors)):
            os.dup2(descriptor, number)
        os.closerange(3, 64)
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        words = [shell, str(copy)] if spec["shell"] else [f"-{Path(shell).name}"]
        os.execve(shell, words, environment)

    def _environment(self, account: pwd.struct_passwd, spec: dict[str, Any]) -> dict[str, str]:
        attributes = spec["attributes"]
        return {
            **spec["environment"],
            "ENVIRONMENT": "BATCH",
            "HOME": account.pw_dir,
            "LOGNAME": account.pw_name,
            "NCPUS": attributes["Resource_List.ncpus"],
            "OMP_NUM_THREADS": attributes["Resource_List.ncpus"],
            "PATH": f"/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games:{wire.prefix()}/bin",
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "PBS_JOBCOOKIE": secrets.token_hex(16).upper(),
            "PBS_JOBDIR": account.pw_dir,
            "PBS_JOBID": spec["id"],
            "PBS_JOBNAME": attributes["Job_Name"],
            "PBS_MOMPORT": "15003",
            "PBS_NODENUM": "0",
            "PBS_QUEUE": attributes["queue"],
            "PBS_TASKNUM": "1",
            "SHELL": account.pw_shell,
            "TMPDIR": "/var/tmp",
            "TZ": "UTC",
            "USER": account.pw_name,
        }


def _signal_session(session: int, number: signal.Signals) -> None:
    """Signal every process of a session."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    os.kill(int(entry.name), number)
            except OSError:
                continue


def serve(node: str) -> int:
    """Serve until killed; the jobs that run go on without it, and nobody hears of their end."""
    mom = Mom(node)
    mom.directory.mkdir(parents=True, exist_ok=True)
    while True:
        mom.look()
        time.sleep(0.05)
