"""The server: takes jobs, gives them to nodes, knows who asks, and behaves badly when told to."""

from __future__ import annotations

import json
import pwd
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

from . import wire
from .jobs import Illegal, Job, duration, minute, now, resources, seconds, size

#: What `fakepbs control` may change, and what it is at first. Times are seconds.
SETTINGS: dict[str, Any] = {
    "history": True,  # job_history_enable: whether ended jobs are kept
    "query_other_jobs": True,  # whether people see one another's jobs
    "delay": 0.0,  # before each answer
    "lose_submits": False,  # a job is taken, and qsub never hears of it
    "scheduling": True,  # whether waiting jobs are started
    "end_takes": 0.0,  # how long a job stays in state E
    "kill_delay": 10.0,  # between TERM and KILL
    "max_queued": 0,  # jobs of one user, 0 for any number
    "disabled": [],  # queues that take no jobs
    "down": [],  # nodes that do not answer
    "reservations": [],  # each with its "id" (M7, R8), hosts, start and end (seconds since 1970), owner
    "nodes": {},
    "queues": {
        "workq": {"queue_type": "Execution"},
        "short": {"queue_type": "Execution", "resources_max.walltime": "00:10:00"},
        "gpu": {"queue_type": "Execution", "acl_user_enable": "True", "acl_users": "nobody"},
    },
}
_OVER = ("F",)
_MANAGER = 0


class Server:
    """All of the server's state; every method that a request names is called with the lock held."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.own = wire.config()["PBS_SERVER"]
        self.host = wire.config()["PBS_HOST"]
        self.lock = threading.RLock()
        self.settings = dict(SETTINGS)
        self.jobs: dict[str, Job] = {}
        self.next = 0
        self._load()

    # ---- what is kept

    def _load(self) -> None:
        path = self.home / "state.json"
        if path.exists():
            kept = json.loads(path.read_text())
            self.settings |= kept["settings"]
            self.next = kept["next"]
            self.jobs = {one["id"]: Job(**one) for one in kept["jobs"]}

    def save(self) -> None:
        """Keep everything across a restart."""
        kept = {
            "settings": self.settings,
            "next": self.next,
            "jobs": [job.saved() for job in self.jobs.values()],
        }
        new = self.home / "state.json.new"
        new.write_text(json.dumps(kept))
        new.replace(self.home / "state.json")

    # ---- requests

    def submit(self, uid: int, request: dict[str, Any]) -> dict[str, Any]:
        """Take a job."""
        asked = request["job"]
        if uid == _MANAGER:
            return {"error": 15023}
        try:
            job = self._job(uid, asked, request)
        except Illegal as illegal:
            return {"error": illegal.args[0], "about": illegal.args[1] if len(illegal.args) > 1 else ""}
        self.next += 1
        self.jobs[job.id] = job
        (self.home / "mom").joinpath(f"{job.id}.script").write_bytes(
            request["script"].encode(errors="surrogateescape")
        )
        self.schedule()
        self.save()
        return {"id": job.id}

    def _job(self, uid: int, asked: dict[str, Any], request: dict[str, Any]) -> Job:
        user, queue = pwd.getpwuid(uid).pw_name, asked.get("q", "workq")
        self._admit(user, queue, asked)
        identifier, path = f"{self.next}.{self.own}", request["cwd"]
        environment = request["environment"]
        variables = {f"PBS_O_{key}": value for key, value in environment.items()}
        variables |= {
            "PBS_O_INTERACTIVE_AUTH_METHOD": "resvport",
            "PBS_O_INTERACTIVE_ENCRYPT_METHOD": "",
            "PBS_O_WORKDIR": path,
            "PBS_O_SYSTEM": "Linux",
        }
        variables |= dict(one.partition("=")[::2] for one in asked.get("v", "").split(",") if "=" in one) | {
            "PBS_O_QUEUE": queue,
            "PBS_O_HOST": self.host,
        }
        where = {
            "o": f"{path}/{asked['N']}.o{self.next}",
            "e": f"{path}/{asked['N']}.e{self.next}",
        }
        for letter, default in where.items():
            where[letter] = f"{self.host}:{Path(path) / asked.get(letter, default)}"
            if asked.get(letter, "").endswith("/"):
                where[letter] = where[letter].rstrip("/") + "/"
        stamp = now()
        held = "h" in asked
        attributes = {
            "Job_Name": asked["N"],
            "Job_Owner": f"{user}@{self.host}",
            "job_state": "H" if held else "Q",
            "substate": "20" if held else "10",
            "queue": queue,
            "server": self.own,
            "Checkpoint": asked.get("c", "u"),
            "ctime": stamp,
            "mtime": stamp,
            "qtime": stamp,
            "Error_Path": where["e"],
            "Output_Path": where["o"],
            "Hold_Types": "u" if held else "n",
            "Join_Path": asked.get("j", "n"),
            "Keep_Files": asked.get("k", "n"),
            "Mail_Points": asked.get("m", "a"),
            "Priority": asked.get("p", "0"),
            "Rerunable": "False" if asked.get("r") == "n" else "True",
            "Variable_List": ",".join(f"{key}={value}" for key, value in variables.items()),
            "Submit_arguments": request["arguments"],
            "project": asked.get("P", "_pbs_project_default"),
            "Submit_Host": self.host,
            **resources(asked["resources"]),
        }
        if not held:
            attributes["etime"] = stamp
        if "A" in asked:
            attributes["Account_Name"] = asked["A"]
        if "S" in asked:
            attributes["Shell_Path_List"] = asked["S"]
        if "umask=" in asked.get("W", ""):
            attributes["umask"] = asked["W"].partition("umask=")[2].lstrip("0") or "0"
        return Job(identifier, uid, attributes, asked.get("S", ""), path, variables)

    def _admit(self, user: str, queue: str, asked: dict[str, Any]) -> None:
        known = self.settings["queues"].get(queue)
        if known is None:
            raise Illegal(15018)
        if queue in self.settings["disabled"]:
            raise Illegal(15021)
        if "acl_users" in known and user not in known["acl_users"].split(","):
            raise Illegal(15007)
        longest = known.get("resources_max.walltime")
        listed = resources(asked["resources"])
        if longest and seconds(listed["Resource_List.walltime"]) > seconds(longest):
            raise Illegal(15036)
        limit = self.settings["max_queued"]
        mine = [j for j in self.jobs.values() if j.state != "F" and pwd.getpwuid(j.uid).pw_name == user]
        if limit and len(mine) >= limit:
            raise Illegal(15142)

    def status(self, uid: int, request: dict[str, Any]) -> dict[str, Any]:
        """Return jobs and errors. A hidden job is neither."""
        if request["history"] and not self.settings["history"]:
            return {"error": 15140}
        ids = request["ids"]
        found: list[Any] = []
        errors: list[Any] = []
        hidden = False
        for identifier in self.jobs if ids is None else ids:
            job = self.jobs.get(identifier)
            if job is None:
                errors.append([identifier, 15001])
            elif job.state in _OVER and not request["history"]:
                if ids is not None:
                    errors.append([identifier, 15139])
            elif self.settings["query_other_jobs"] or uid in (_MANAGER, job.uid):
                found.append([job.id, self._used(job).shown()])
            else:
                hidden = True
        return {"jobs": found, "errors": [] if hidden else errors}

    def _used(self, job: Job) -> Job:
        if job.state in ("R", "E", "S") and "stime" in job.attributes:
            passed = max(0, int(time.time()) - int(job.attributes["stime"]))
            job.attributes["resources_used.walltime"] = duration(passed)
        return job

    def delete(self, uid: int, request: dict[str, Any]) -> dict[str, Any]:
        """End jobs."""
        errors = []
        for identifier in request["ids"]:
            job = self.jobs.get(identifier)
            number = 0
            if job is None:
                number = 15001
            elif request["remove"] and job.state == "F" and uid in (_MANAGER, job.uid):
                del self.jobs[identifier]
            elif job.state == "F":
                number = 15139
            elif uid not in (_MANAGER, job.uid):
                number = 15007
            else:
                number = self._end(job, uid, force=request["force"])
            if number:
                errors.append([identifier, number])
        self.save()
        return {"errors": errors}

    def _end(self, job: Job, uid: int, *, force: bool) -> int:
        if job.state not in ("R", "S", "E"):
            self._over(job, "91", None, " and terminated" if "comment" in job.attributes else "")
            return 0
        if self._node(job) in self.settings["down"] and not force:
            return 15070
        if force:
            self._signal(job, "KILL")
            self._over(job, "91", None, " and terminated")
            return 0
        if not job.deleted:
            job.deleted = time.time()
            who = f"{pwd.getpwuid(uid).pw_name}@{self.host}"
            job.change(comment=f"{job.attributes.get('comment', '')} and terminated by {who}")
            self._signal(job, "TERM")
        return 0

    def alter(self, uid: int, request: dict[str, Any]) -> dict[str, Any]:
        """Change attributes of a job: all, or none of them."""
        job = self.jobs.get(request["id"])
        if job is None:
            return {"error": 15001}
        if job.state == "F":
            return {"error": 15139}
        if uid not in (_MANAGER, job.uid):
            return {"error": 15007}
        for key, value, running in request["changes"]:
            if key == "comment" and uid != _MANAGER:
                return {"error": 15003, "about": key}
            if job.state == "R" and not running and uid != _MANAGER:
                return {"error": 15015, "about": key}
            if key == "Resource_List.walltime" and seconds(value) > job.walltime() and uid != _MANAGER:
                return {"error": 15007}
            if key == "Job_Name" and (len(value) > 230 or not _legal(value)):
                return {"error": 15014, "about": f" {key}"}
        for key, value, _ in request["changes"]:
            shown = {"Rerunable": {"y": "True", "n": "False"}.get(value, value)}.get(key, value)
            job.attributes[key] = shown
        self.save()
        return {}

    def queues(self, uid: int, request: dict[str, Any]) -> dict[str, Any]:
        """Return the queues' and the server's attributes."""
        del uid, request
        shown = {}
        for name, attributes in self.settings["queues"].items():
            mine = [job for job in self.jobs.values() if job.attributes["queue"] == name]
            shown[name] = {
                "queue_type": attributes["queue_type"],
                "total_jobs": str(len(mine)),
                "state_count": self._counts(mine),
                **{key: value for key, value in attributes.items() if key != "queue_type"},
                "enabled": str(name not in self.settings["disabled"]),
                "started": "True",
            }
        server = {
            "server_state": "Active",
            "server_host": self.host,
            "scheduling": str(self.settings["scheduling"]),
            "total_jobs": str(len(self.jobs)),
            "state_count": self._counts(list(self.jobs.values())),
            "default_queue": "workq",
            "log_events": "511",
            "mailer": "/usr/sbin/sendmail",
            "mail_from": "adm",
            "query_other_jobs": str(self.settings["query_other_jobs"]),
            "resources_default.ncpus": "1",
            "resources_default.walltime": "01:00:00",
            "default_chunk.ncpus": "1",
            "scheduler_iteration": "600",
            "job_history_enable": str(self.settings["history"]),
            "pbs_version": "23.06.06",
        }
        for each in self.settings["reservations"]:
            shown[each["id"]] = {
                "queue_type": "Execution",
                "total_jobs": "0",
                "state_count": self._counts([]),
                "acl_user_enable": "True",
                "acl_users": f"{each['owner']}@{self.host}",
                "enabled": "True",
                "started": str(self._is_on(each)),
            }
        return {"queues": shown, "server": server}

    def reservations(self, uid: int, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reservations' attributes."""
        del uid, request
        return {"reservations": [self._reservation(each) for each in self.settings["reservations"]]}

    def _reservation(self, each: dict[str, Any]) -> list[Any]:
        cores = {host: self.settings["nodes"][host]["ncpus"] for host in each["hosts"]}
        select = "+".join(f"host={host}:ncpus={ncpus}" for host, ncpus in cores.items())
        who, stamp = f"{each['owner']}@{self.host}", str(each["start"] - 86400)
        attributes = {
            "Reserve_Name": "NULL",
            "Reserve_Owner": who,
            "reserve_state": "RESV_RUNNING" if self._is_on(each) else "RESV_CONFIRMED",
            "reserve_substate": "5" if self._is_on(each) else "2",
            "reserve_start": str(each["start"]),
            "reserve_end": str(each["end"]),
            "reserve_duration": str(each["end"] - each["start"]),
            "queue": each["id"],
            "Resource_List.ncpus": str(sum(int(ncpus) for ncpus in cores.values())),
            "Resource_List.nodect": str(len(cores)),
            "Resource_List.place": "exclhost",
            "Resource_List.select": select,
            "Resource_List.walltime": duration(each["end"] - each["start"]),
            "resv_nodes": "+".join(f"({host}:ncpus={ncpus})" for host, ncpus in cores.items()),
            "Authorized_Users": who,
            "server": self.own,
            "ctime": stamp,
            "mtime": stamp,
            "Variable_List": f"PBS_O_LOGNAME={each['owner']},PBS_O_HOST={self.host}",
            "Submit_Host": self.host,
        }
        return [f"{each['id']}.{self.own}", attributes]

    def _is_on(self, each: dict[str, Any]) -> bool:
        return bool(each["start"] <= time.time() < each["end"])

    def _counts(self, jobs: list[Job]) -> str:
        words = {"T": "Transit", "Q": "Queued", "H": "Held", "W": "Waiting", "R": "Running", "E": "Exiting"}
        counts = [f"{word}:{sum(job.state == letter for job in jobs)}" for letter, word in words.items()]
        return " ".join([*counts, "Begun:0 "])

    def nodes(self, uid: int, request: dict[str, Any]) -> dict[str, Any]:
        """Return the nodes' attributes."""
        del uid, request
        shown = {}
        for name, has in self.settings["nodes"].items():
            running = [job for job in self.jobs.values() if self._node(job) == name]
            free = self._free(name)
            down = name in self.settings["down"]
            shown[name] = {
                "Mom": name,
                "Port": "15002",
                "pbs_version": "23.06.06",
                "ntype": "PBS",
                "state": "down" if down else "job-busy" if not free["ncpus"] else "free",
                "pcpus": has["ncpus"],
                **({"jobs": ", ".join(f"{job.id}/0" for job in running)} if running else {}),
                "resources_available.arch": "linux",
                "resources_available.host": name,
                **{f"resources_available.{key}": value for key, value in sorted(has.items())},
                "resources_available.vnode": name,
                "resources_assigned.mem": f"{(size(has['mem'], '') - free['mem']) // 1024}kb",
                "resources_assigned.ncpus": str(int(has["ncpus"]) - free["ncpus"]),
                **(
                    {"resources_assigned.ngpus": str(int(has["ngpus"]) - free["ngpus"])}
                    if "ngpus" in has
                    else {}
                ),
                "resv_enable": "True",
                "sharing": "default_shared",
                **({"comment": "node down: communication closed"} if down else {}),
            }
        return {"nodes": shown}

    def control(self, uid: int, request: dict[str, Any]) -> dict[str, Any]:
        """Change settings."""
        if uid != _MANAGER:
            return {"error": "only root may"}
        unknown = request["settings"].keys() - SETTINGS
        if unknown:
            return {"error": f"no settings: {', '.join(sorted(unknown))}"}
        self.settings |= {key: json.loads(value) for key, value in request["settings"].items()}
        if not self.settings["history"]:
            self.jobs = {key: job for key, job in self.jobs.items() if job.state != "F"}
        self.schedule()
        self.save()
        return {}

    def forge(self, uid: int, request: dict[str, Any]) -> dict[str, Any]:
        """Set any attributes of a job, as no user could."""
        job = self.jobs.get(request["id"])
        if uid != _MANAGER or job is None:
            return {"error": 15001}
        for key, value in request["changes"].items():
            job.change(**{key.replace(".", "__"): value or None})
        self.save()
        return {}

    # ---- running jobs

    def _node(self, job: Job) -> str:
        return job.attributes["exec_host"].partition("/")[0] if job.state in ("R", "S", "E") else ""

    def _free(self, node: str) -> dict[str, int]:
        has = self.settings["nodes"][node]
        free = {"ncpus": int(has["ncpus"]), "mem": size(has["mem"], ""), "ngpus": int(has.get("ngpus", 0))}
        for job in self.jobs.values():
            if self._node(job) == node:
                _, wanted = job.chunks[0]
                for key in free:
                    free[key] -= size(wanted.get(key, "0"), key)
        return free

    def schedule(self) -> None:
        """Start what can start, oldest first."""
        first = True
        for job in self.jobs.values():
            if job.state != "Q" or not self.settings["scheduling"]:
                continue
            node, lacks = self._place(job)
            if node:
                self._start(job, node)
            elif lacks:
                job.attributes["comment"] = lacks
                if first and not lacks.startswith("Can"):
                    self._estimate(job)
                    first = False

    def _place(self, job: Job) -> tuple[str, str]:
        """Return a node for the job, or the comment that says why there is none."""
        _, wanted = job.chunks[0]
        up = [name for name in self.settings["nodes"] if name not in self.settings["down"]]
        reserved = False
        for name in up:
            if wanted.get("host", name) != name:
                continue
            if self._is_reserved(name, job.walltime()):
                reserved = True
                continue
            free = self._free(name)
            if all(size(wanted.get(key, "0"), key) <= amount for key, amount in free.items()):
                return name, ""
        if reserved:
            return "", "Not Running: Job would conflict with reservation or top job"
        asked = int(job.attributes["Resource_List.ncpus"])
        total = sum(int(has["ncpus"]) for has in self.settings["nodes"].values())
        free_now = sum(self._free(name)["ncpus"] for name in up)
        most = max((int(has["ncpus"]) for has in self.settings["nodes"].values()), default=0)
        word = "Can Never Run" if int(wanted["ncpus"]) > most else "Not Running"
        amount = f"ncpus (R: {asked} A: {free_now} T: {total})" if up else "host "
        return "", f"{word}: Insufficient amount of resource: {amount}"

    def _is_reserved(self, node: str, walltime: int) -> bool:
        now_and_then = time.time(), time.time() + walltime
        return any(
            node in each["hosts"] and each["start"] < now_and_then[1] and each["end"] > now_and_then[0]
            for each in self.settings["reservations"]
        )

    def _estimate(self, job: Job) -> None:
        ends = [
            int(other.attributes["stime"]) + other.walltime()
            for other in self.jobs.values()
            if other.state == "R"
        ]
        if ends:
            job.attributes["estimated.start_time"] = str(min(ends))
            job.attributes["estimated.exec_vnode"] = "(" + job.attributes["Resource_List.select"] + ")"

    def _start(self, job: Job, node: str) -> None:
        _, wanted = job.chunks[0]
        cores = int(wanted["ncpus"])
        memory = f":mem={size(wanted['mem'], '') // 1024}kb" if "mem" in wanted else ""
        vnode = f"({node}:ncpus={cores}{memory})"
        index = sum(self._node(other) == node for other in self.jobs.values())
        job.change(
            job_state="R",
            substate="41",
            stime=now(),
            exec_host=f"{node}/{index}" + (f"*{cores}" if cores > 1 else ""),
            exec_vnode=vnode,
            comment=f"Job run at {minute()} on {vnode}",
            run_count=str(int(job.attributes.get("run_count", "0")) + 1),
            jobdir=pwd.getpwuid(job.uid).pw_dir,
            resources_used__cpupercent="0",
            resources_used__cput="00:00:00",
            resources_used__mem="0kb",
            resources_used__ncpus=str(cores),
            resources_used__vmem="0kb",
            resources_used__walltime="00:00:00",
            Exit_status=None,
        )
        spec = {**job.saved(), "kill_delay": self.settings["kill_delay"]}
        self._hand(node, f"{job.id}.job", json.dumps(spec))

    def _hand(self, node: str, name: str, text: str) -> None:
        directory = self.home / "mom" / node
        directory.mkdir(exist_ok=True)
        new = directory / f".{name}"
        new.write_text(text)
        new.replace(directory / name)

    def _signal(self, job: Job, signal: str) -> None:
        self._hand(self._node(job), f"{job.id}.signal", signal)

    def look(self) -> None:
        """Take the nodes' word on the jobs that they run."""
        for job in list(self.jobs.values()):
            if job.state == "R":
                self._look_at(job)
            elif job.state == "E" and time.time() - job.ended >= self.settings["end_takes"]:
                status = int(job.attributes["Exit_status"])
                word = "" if job.deleted else " and failed" if status else " and finished"
                self._over(job, "91" if job.deleted else "93" if status else "92", status, word)
                self.schedule()
                self.save()

    def _look_at(self, job: Job) -> None:
        node = self._node(job)
        if node in self.settings["down"]:
            return
        path = self.home / "mom" / node / f"{job.id}.word"
        if not path.exists():
            return
        word = json.loads(path.read_text())
        if "held" in word and job.deleted:
            path.unlink()
            self._over(job, "91", None, "")
        elif "held" in word:
            job.change(
                job_state="H",
                substate="20",
                Hold_Types="s",
                run_count="21",
                exec_host=None,
                exec_vnode=None,
                stime=None,
                comment="job held, too many failed attempts to run",
            )
            path.unlink()
        elif "exit" in word:
            job.ended = time.time()
            job.change(job_state="E", substate="50", Exit_status=str(word["exit"]))
            path.unlink()
        elif "session_id" not in job.attributes:
            job.change(substate="42", session_id=str(word["session"]))
        else:
            return
        self.save()

    def _over(self, job: Job, substate: str, status: int | None, word: str) -> None:
        if not self.settings["history"]:
            del self.jobs[job.id]
            return
        job.change(job_state="F", substate=substate, history_timestamp=now())
        if word:
            job.attributes["comment"] = job.attributes.get("comment", "") + word
        if status is not None:
            job.change(Exit_status=str(status), obittime=now(), Stageout_status="1")


def _legal(name: str) -> bool:
    return all(c.isascii() and (c.isalnum() or c in "-_+.") for c in name)


def serve() -> int:
    """Serve until killed."""
    home = Path(wire.config()["PBS_HOME"])
    (home / "mom").mkdir(exist_ok=True)
    (home / "mom").chmod(0o700)
    server = Server(home)
    path = home / "server.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o666)
        listening.listen(256)
        threading.Thread(target=_tick, args=(server,), daemon=True).start()
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_answer, args=(server, connection), daemon=True).start()


def _tick(server: Server) -> None:
    while True:
        with server.lock:
            server.look()
            busy = any(job.state in ("R", "E") for job in server.jobs.values())
        time.sleep(0.05 if busy else 0.2)


def _answer(server: Server, connection: socket.socket) -> None:
    with connection:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        uid = struct.unpack("3i", credentials)[1]
        line = connection.makefile("rb").readline()
        if not line:
            return
        request = json.loads(line)
        verbs = {
            "submit": server.submit,
            "status": server.status,
            "delete": server.delete,
            "alter": server.alter,
            "queues": server.queues,
            "reservations": server.reservations,
            "nodes": server.nodes,
            "control": server.control,
            "forge": server.forge,
        }
        if request["verb"] != "control":
            time.sleep(server.settings["delay"])
        with server.lock:
            answer = verbs[request["verb"]](uid, request)
            lost = request["verb"] == "submit" and server.settings["lose_submits"]
        while lost:
            time.sleep(1)
        try:
            connection.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            return
