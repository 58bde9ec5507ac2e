"""Grid Engine: what its commands print, and what that says of jobs. The recordings are a real qmaster's."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from gateway.discovery import MOST_ROOMS, Room
from gateway.errors import CancelRefused, QueueUnreachable, SubmitOutcomeUnknown, SubmitRefused
from gateway.model import Asked, Choices, Completed, JobEnd, JobId, JobState, Listing
from gateway.schedulers.sge import Sge
from gateway.schedulers.sge_discovery import positions
from gateway.schedulers.sge_documents import Row, rows
from gateway.script import JobFacts, render_script
from gateway.siteconfig import parse_site_config
from tests.unit.test_schedulers import ENDPOINT, INSTANCE, MARK, NAME, SchedulerContract

RECORDINGS = Path(__file__).parents[1] / "recordings/sge"
REFUSED_CONNECTION = "error: commlib error: got select error (Connection refused)\n"
NO_SEND = 'unable to send message to qmaster using port 6444 on host "sgelogin": got send error\n'
#: What a script with a walltime over the queue's does to ``qsub -w v``.
NOT_SUITABLE = (
    'Unable to run job: Job 30 cannot run in queue "long.q" because it is not contained in its hard '
    "queue list (-q)\n"
    'Job 30 (-l h_rt=60000) cannot run in queue "short.q" because of cluster queue\n'
    "verification: no suitable queues\nExiting.\n"
)
sge = Sge()


def recorded(name: str) -> Completed:
    return Completed(0, (RECORDINGS / name).read_text())


def row(number: int, letters: str, name: str = NAME, user: str = "alice", host: str = "cn1") -> str:
    on_node = set(letters) & set("rtsSTd") and "q" not in letters
    return (
        f'<job_list state="running"><JB_job_number>{number}</JB_job_number><JB_name>{name}</JB_name>'
        f"<JB_owner>{user}</JB_owner><state>{letters}</state>"
        f"<queue_name>{f'short@{host}' if on_node else ''}</queue_name><slots>1</slots></job_list>\n"
    )


def listed(*jobs: str) -> Completed:
    text = f"<job_info  xmlns:xsd='x'>\n<queue_info>{''.join(jobs)}</queue_info>\n</job_info>\n"
    return Completed(0, f"<?xml version='1.0'?>\n{text}")


def detail(number: int, name: str = NAME, user: str = "alice", context: str = ENDPOINT) -> str:
    return (
        f"<element><JB_job_number>{number}</JB_job_number><JB_owner>{user}</JB_owner>"
        f"<JB_job_name>{name}</JB_job_name><JB_ja_tasks><ulong_sublist>"
        "<JAT_start_time>1795461501</JAT_start_time></ulong_sublist></JB_ja_tasks><JB_context><context_list>"
        f"<VA_variable>gw</VA_variable><VA_value>{context}</VA_value></context_list></JB_context></element>\n"
    )


def detailed(*jobs: str) -> Completed:
    if not jobs:
        return recorded("qstat-j-unknown.xml")
    text = (
        f"<detailed_job_info><djob_info>{''.join(jobs)}</djob_info><messages></messages></detailed_job_info>"
    )
    return Completed(0, f"<?xml version='1.0'?>\n{text}\n")


def read(first: Completed, second: Completed, *names: str) -> Listing:
    return sge.read_status([first, second], [Asked(name, "alice") for name in names or (NAME,)], MARK)


class TestContract(SchedulerContract):
    """The contract of all schedulers."""

    scheduler = sge
    #: qstat(1), in the order in which the letters are looked at.
    states: Mapping[str, JobState] = {
        "qw": JobState.QUEUED,
        "Rq": JobState.QUEUED,
        "t": JobState.QUEUED,
        "hqw": JobState.HELD,
        "hRwq": JobState.HELD,
        "r": JobState.RUNNING,
        "hr": JobState.RUNNING,
        "s": JobState.SUSPENDED,
        "S": JobState.SUSPENDED,
        "T": JobState.SUSPENDED,
        "dr": JobState.STOPPING,
        "dt": JobState.STOPPING,
        "dRr": JobState.STOPPING,
        "z": JobState.COMPLETED,
        "Eqw": JobState.CANNOT_START,
        "Ehqw": JobState.CANNOT_START,
        "?": JobState.UNKNOWN,
    }
    submitted = (Completed(0, "4711\n"), JobId("4711"))
    refused = (
        Completed(
            1, "", 'Unable to run job: Job was rejected because job requests unknown queue "x"\nExiting.\n'
        ),
        'Job was rejected because job requests unknown queue "x"',
    )
    not_cancelled = Completed(1, 'bob - you do not have the necessary privileges to delete the job "43"\n')
    not_there = Completed(1, 'denied: job "99999" does not exist\n')
    bad_directives = (
        "#$ -N other",
        "#$-N other",
        "#$ -l h_vmem=1G -t 1-10",
        "#$ -o elsewhere",
        "#$ -j n",
        "#$ -wd /tmp",
        "#$ -S /bin/tcsh",
        "#$ -r y",
        "#$ -clear",
        "#$ -ac gw=gw1:0:0:x:1",
        "#$ -h",
        "#$ -a 12312300",
        "#$ -V",
        "#$ -notify",
        *(
            f"#$ {option}"
            for option in ("-tc 2", "-hold_jid_ad 1", "-e x", "-i x", "-cwd", "-shell n", "-b y")
        ),
        *(f"#$ {option}" for option in ("-C #X", "-ckpt x", "-dc x", "-sc x=y", "-@ x", "-v A=1")),
        *(f"#$ {option}" for option in ("-sync y", "-now y", "-terse", "-w n", "-verify", "-help")),
    )
    good_directives = ("#$ -l h_vmem=4G,scratch=10G", "#$ -P project", "#$ -R y -p -10", "#$ -M -q@x.org")
    chosen_directives: ClassVar[Mapping[str, Sequence[str]]] = {
        "partition": ("#$ -q other", "#$ -R y -q other"),
        "walltime": ("#$ -l h_rt=9", "#$ -l h_vmem=4G,h_rt=9", '#$ -l "s_rt=9"'),
        "cores": ("#$ -pe mpi 4",),
        "memory": ("#$ -l mem_free=9G", "#$ -hard -l mf=9G"),
        "gpus": ("#$ -l gpu",),
        "account": ("#$ -P other",),
        "reservation": ("#$ -ar 17",),
        "exclusive": ("#$ -l exclusive=true",),
    }

    def listing(self, states: Sequence[str]) -> Sequence[Completed]:
        numbered = list(enumerate(states, 1))
        return (
            detailed(*(detail(number) for number, _ in numbered)),
            listed(*(row(number, letters) for number, letters in numbered)),
        )

    def discovered(self) -> Sequence[Completed]:
        queue = "qname short\nqtype BATCH INTERACTIVE\nslots 4\nprojects NONE\nh_rt 0:10:0\n"
        host = (
            "<qhost><host name='cn1'><resourcevalue name='mem_total' dominance='hl'>3.500G</resourcevalue>"
            "<queue name='short'><queuevalue qname='short' name='slots_used'>1</queuevalue>"
            "<queuevalue qname='short' name='slots'>4</queuevalue></queue></host></qhost>"
        )
        first, second = self.listing(["r"])
        return Completed(0, queue), Completed(0, host), recorded("qconf-sc.txt"), first, second


# --- submit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completed", "error"),
    [
        (Completed(1, "", f"{REFUSED_CONNECTION}Unable to run job: {NO_SEND}Exiting.\n"), QueueUnreachable),
        (Completed(1, "", f"Unable to run job: {NO_SEND}Exiting.\n"), SubmitOutcomeUnknown),  # hung for 122 s
        (
            Completed(1, "", "Unable to run job: Error reading answer list from qmaster\nExiting.\n"),
            SubmitOutcomeUnknown,
        ),
        (Completed(1, "", "Segmentation fault\n"), SubmitOutcomeUnknown),
        (Completed(1, "", "Unable to run job: error: no suitable queues\nExiting.\n"), SubmitRefused),
        (Completed(2, "", 'qsub: invalid option argument "-x"\n'), SubmitRefused),
    ],
    ids=["down", "hung", "answer-lost", "crashed", "never", "option"],
)
def test_only_a_clear_no_is_a_refusal(completed: Completed, error: type[Exception]) -> None:
    with pytest.raises(error):
        sge.read_submit(completed)


def test_an_unknown_queue_is_refused_in_its_own_words() -> None:
    said = 'Unable to run job: Job was rejected because job requests unknown queue "nosuch.q"\nExiting.\n'
    words = 'Job was rejected because job requests unknown queue "nosuch.q"'
    for read in (sge.read_submit, sge.read_dry_run):
        with pytest.raises(SubmitRefused) as caught:
            read(Completed(1, "", said))
        assert caught.value.public == f"The cluster did not accept the job: {words}."


def test_each_of_qsubs_sentences_is_told_once_and_all_of_them_logged() -> None:
    said = (
        "a warning of the site's\nUnable to run job: warning: X is odd.\nerror: .\nerror: not so, X\n"
        "qsub: error: not so, X.\nExiting.\n"
    )
    for read, program in ((sge.read_submit, "qsub"), (sge.read_dry_run, "qsub -w v")):
        with pytest.raises(SubmitRefused) as caught:
            read(Completed(1, "", said))
        words = "a warning of the site's; X is odd; not so, X"
        assert caught.value.public == f"The cluster did not accept the job: {words}."
        assert str(caught.value).startswith(program)
        assert "X is odd. error: ." in str(caught.value)


def test_a_qmaster_that_was_not_reached_is_logged() -> None:
    with pytest.raises(QueueUnreachable, match=r"^qsub: exit status 1: .*Connection refused"):
        sge.read_submit(Completed(1, "", f"{REFUSED_CONNECTION}Unable to run job: {NO_SEND}Exiting.\n"))


def test_warnings_before_the_id_do_no_harm() -> None:
    assert sge.read_submit(Completed(0, "warning: no suitable queues\n4711\n")) == "4711"


def test_the_dry_run_refuses_what_can_never_run_and_says_why() -> None:
    with pytest.raises(SubmitRefused) as caught:
        sge.read_dry_run(Completed(1, "", NOT_SUITABLE))
    assert caught.value.public == (
        'The cluster did not accept the job: Job 30 (-l h_rt=60000) cannot run in queue "short.q" because of '
        "cluster queue; verification: no suitable queues."
    )
    sge.read_dry_run(Completed(0, "verification: found suitable queue(s)\n"))
    sge.read_dry_run(Completed(1, "", f"{REFUSED_CONNECTION}Unable to run job: {NO_SEND}"))


# --- status -------------------------------------------------------------------------------------------------


def test_a_real_listing_is_read_whole() -> None:
    names = [f"gw-inst22-{letter * 10}" for letter in "abcdef"]
    jobs = {job.name[-1]: job for job in read(recorded("qstat-j.xml"), recorded("qstat-u.xml"), *names).jobs}
    assert {letter: job.state for letter, job in jobs.items()} == {
        "a": JobState.RUNNING,
        "b": JobState.CANNOT_START,
        "c": JobState.HELD,
        "d": JobState.QUEUED,
        "e": JobState.QUEUED,
        "f": JobState.SUSPENDED,
    }
    assert jobs["a"].host == jobs["f"].host == "sgen1"
    assert jobs["a"].comment == "gw1:0123456789abcdef:0:sgen1:20001"
    assert jobs["a"].ends == datetime(2026, 11, 23, 19, 28, 21, tzinfo=UTC)
    assert jobs["b"].reason == 'can\'t open output file "/no/such/dir/log": No such file or directory'
    assert jobs["d"].reason == '(-l h_rt=60000) cannot run in queue "short.q" because of cluster queue'
    assert "offers only hc:mem_free=3.453G" in jobs["e"].reason
    assert {letter: sge.why(job).partition(".")[0] for letter, job in jobs.items()} == {
        "a": "",
        "b": "The cluster cannot write your job's log, so the job cannot start",
        "c": "Your job is held and does not start by itself",
        "d": "The queue does not allow what your job asks for, perhaps its walltime",
        "e": "No node has enough free at the moment for what your job asks for",
        "f": "The cluster has suspended your job for a while",
    }


def test_a_job_that_a_new_qmaster_has_read_back_is_still_there() -> None:
    """Its task is an element called ``JATASK:       5.``, which no XML reader takes."""
    second = listed(row(5, "r", "gw-inst22-aaaaaaaaaa", host="sgen1"))
    (job,) = read(recorded("qstat-j-restarted.xml"), second, "gw-inst22-aaaaaaaaaa").jobs
    assert (job.job_id, job.state, job.host) == ("5", JobState.RUNNING, "sgen1")
    assert job.ends == datetime(2026, 11, 23, 19, 56, 46, tzinfo=UTC)


def test_a_listing_by_queues_says_the_same() -> None:
    """A file ~/.sge_qstat with -f puts the jobs that run below their queues."""
    names = [f"gw-inst22-{letter * 10}" for letter in "abcdef"]
    plain = read(recorded("qstat-j.xml"), recorded("qstat-u.xml"), *names)
    assert set(read(recorded("qstat-j.xml"), recorded("qstat-f.xml"), *names).jobs) == set(plain.jobs)


@pytest.mark.parametrize(
    "answer",
    [
        Completed(1, "", REFUSED_CONNECTION + f"error: {NO_SEND}"),
        Completed(0, (RECORDINGS / "qstat-j-down.xml").read_text()),
        Completed(0, (RECORDINGS / "qstat-j-down.xml").read_text(), REFUSED_CONNECTION),
        Completed(0, listed().stdout, REFUSED_CONNECTION),
        Completed(0, ""),
        Completed(0, "<job_info><queue_info>"),
        Completed(0, "<html></html>"),
        Completed(0, '<!DOCTYPE x [<!ENTITY a "b">]><job_info>&a;</job_info>'),
    ],
    ids=["down", "root", "root-and-complaint", "complaint", "nothing", "cut", "page", "declaration"],
)
@pytest.mark.parametrize("place", [0, 1])
def test_gone_needs_a_good_listing(answer: Completed, place: int) -> None:
    answers = [detailed(detail(1)), listed(row(1, "r"))]
    answers[place] = answer
    with pytest.raises(QueueUnreachable, match=r"^qstat: " if place else "^qstat -j: "):
        sge.read_status(answers, [Asked(NAME, "alice")], MARK)


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("<html><b>a</b><b>b</b></html>", "html: a b$"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><job_info/>', "not readable: a declaration: <!DOCTYPE"),
        ("<job_info><queue_info>", "not readable: no element found"),
        (listed(row(7, "r").replace(">7<", ">x<")).stdout, "'x' is no job id"),
    ],
)
def test_what_is_wrong_with_a_document_is_logged(printed: str, words: str) -> None:
    with pytest.raises(QueueUnreachable, match=f"^qstat: {words}"):
        read(detailed(), Completed(0, printed))


def test_a_job_that_is_there_twice_is_logged() -> None:
    with pytest.raises(QueueUnreachable, match="job 7 is there twice"):
        read(detailed(detail(7), detail(7)), listed())


def test_a_job_that_one_of_the_listings_has_is_not_gone() -> None:
    (ended,) = read(detailed(detail(7)), listed()).jobs
    assert (ended.job_id, ended.state, ended.comment) == ("7", JobState.UNKNOWN, ENDPOINT)
    (new,) = read(detailed(), listed(row(7, "qw"))).jobs
    assert (new.job_id, new.state, new.native) == ("7", JobState.QUEUED, "qw")
    assert (new.comment, new.reason, new.ends) == ("", "", None)
    assert read(detailed(), listed()).jobs == ()


def limited(number: int, *, started: str = "1795461501", h_rt: str = "600.000000", context: str = "") -> str:
    """Return a job with a limit, as far as it has one and says when it began."""
    limit = f"<qstat_l_requests><CE_name>h_rt</CE_name><CE_doubleval>{h_rt}</CE_doubleval></qstat_l_requests>"
    text = detail(number, context=context).replace("1795461501", started)
    return text.replace(
        "</JB_ja_tasks>", f"</JB_ja_tasks><JB_hard_resource_list>{limit}</JB_hard_resource_list>"
    )


@pytest.mark.parametrize(
    ("letters", "said", "ends"),
    [
        ("r", {}, datetime.fromtimestamp(1795462101, UTC)),
        ("r", {"started": ""}, None),
        ("r", {"h_rt": ""}, None),
        ("r", {"h_rt": "INFINITY"}, None),
        ("qw", {}, None),
        ("Rq", {"started": ""}, None),
    ],
    ids=range(6),
)
def test_a_walltime_ends_where_a_job_runs_and_both_its_numbers_are_known(
    letters: str, said: Mapping[str, str], ends: datetime | None
) -> None:
    (job,) = read(detailed(limited(7, **said)), listed(row(7, letters))).jobs
    assert job.ends == ends
    assert job.comment == ""


def messages(*said: tuple[int, str, int]) -> str:
    """Return the scheduler's messages: each one's number, its words, and the job that they are about."""
    elements = (
        f"<element><MES_message_number>{number}</MES_message_number><MES_message>{words}</MES_message>"
        f"<MES_job_number_list><element><ULNG_value>{job}</ULNG_value></element></MES_job_number_list></element>"
        for number, words, job in said
    )
    return f"<messages><element><SME_message_list>{''.join(elements)}</SME_message_list></element></messages>"


def test_a_message_is_of_the_jobs_that_it_names_alone() -> None:
    said = messages((8, "one", 7), (7, "two", 7), (7, "three", 8), (9, "four", 4711))
    first = detailed(detail(7), detail(8))
    first = Completed(0, first.stdout.replace("<messages></messages>", said))
    waits, runs = read(first, listed(row(7, "qw"), row(8, "r"))).jobs
    assert (waits.reason, runs.reason) == ("one; two", "")


def test_an_error_without_words_is_no_reason() -> None:
    (job,) = read(detailed(detail(7)), listed(row(7, "Eqw"))).jobs
    assert (job.state, job.reason) == (JobState.CANNOT_START, "")


def test_what_a_row_leaves_out_is_empty() -> None:
    text = row(7, "r", user="").replace("short@cn1", "short")
    more = "<hard_req_queue></hard_req_queue><hard_request name='gpu'></hard_request><slots>"
    (found,) = rows(listed(text.replace("<slots>", more)))
    assert (found.user, found.host, found.queues, found.requests) == ("", "", frozenset(), {"gpu": ""})


def test_what_nobody_asks_for_is_passed_over_wherever_it_stands() -> None:
    """Parts that are not read may hold anything, also what is no XML; what is between them is read."""
    junk = "<JB_env_list><odd></JB_env_list>"
    text = detail(7).replace("<JB_owner>", f"{junk}<JB_owner>").replace("</JB_owner>", f"</JB_owner>{junk}")
    (job,) = read(detailed(text), listed(row(7, "r"))).jobs
    assert (job.user, job.comment) == ("alice", ENDPOINT)


def test_bad_bytes_in_anybodys_job_hide_nobodys() -> None:
    forged = row(8, "r", "a%lt;b&gt;\x1b\x01\ufffd", "mallory")
    first = detailed(detail(7), detail(8, "a%lt;b&gt;\x1b\x01", "mallory"))
    assert [job.job_id for job in read(first, listed(row(7, "r"), forged)).jobs] == ["7"]
    (shown,) = read(first, listed(forged), "a<b>\ufffd").jobs
    assert shown.user == "mallory"


def test_somebody_elses_job_of_our_name_is_theirs() -> None:
    listing = read(detailed(detail(7), detail(8, user="mallory")), listed(row(7, "r")))
    assert [job.job_id for job in listing.named(NAME, "alice")] == ["7"]
    assert [job.job_id for job in listing.named(NAME, "mallory")] == ["8"]


def test_a_job_that_was_started_again_is_told_by_its_letter() -> None:
    (job,) = read(detailed(detail(7)), listed(row(7, "Rr"))).jobs
    assert (job.state, job.restarts) == (JobState.RUNNING, 1)


def test_ten_thousand_jobs_are_two_short_commands() -> None:
    asked = [
        Asked(f"gw-inst22-{i:05}".translate(str.maketrans("0189", "abcd")) + "aaaaa", f"u{i}")
        for i in range(10_000)
    ]
    commands = [command.words for command in sge.status_commands(asked, MARK)]
    assert commands == [
        ("qstat", "-j", "gw-inst22-*", "-xml"),
        ("qstat", "-u", "*", "-s", "prs", "-xml"),
    ]


def settled(job_id: str = "7") -> Asked:
    return Asked(NAME, "alice", JobId(job_id), settled=True)


def test_of_settled_jobs_only_the_states_are_asked_for() -> None:
    other = Asked(f"{NAME[:-1]}b", "bob")
    (states,) = sge.status_commands([settled()], MARK)
    assert states.words == ("qstat", "-u", "alice", "-s", "prs", "-xml")
    more, states = sge.status_commands([settled(), other], MARK)
    assert more.words == ("qstat", "-j", other.name, "-xml")
    assert states.words[2] == "alice,bob"


def test_that_a_settled_job_was_started_again_or_is_gone_is_seen_all_the_same() -> None:
    def seen(*rows: str) -> Sequence[tuple[JobState, str | None, int]]:
        jobs = sge.read_status([listed(*rows)], [settled()], MARK).jobs
        return [(job.state, job.host, job.restarts) for job in jobs]

    assert seen(row(7, "r")) == [(JobState.RUNNING, "cn1", 0)]
    assert seen(row(7, "Rr")) == [(JobState.RUNNING, "cn1", 1)]
    assert seen(row(7, "Rq")) == [(JobState.QUEUED, None, 1)]
    assert seen() == []


def test_a_large_listing_is_read_in_less_time_than_qstat_takes() -> None:
    """1,000 jobs took qstat 0.23 s; the reader has three times that, for slow machines."""
    names = [f"gw-inst22-{letter * 10}" for letter in "abcdef"]
    found = re.search(r"^    <element>$.*?^    </element>$", recorded("qstat-j.xml").stdout, re.M | re.S)
    assert found
    many = "".join(found[0].replace("<JB_job_number>24<", f"<JB_job_number>{i}<") for i in range(1, 1001))
    first = Completed(0, f"<detailed_job_info><djob_info>{many}</djob_info></detailed_job_info>")
    second = listed(*(row(i, "r", names[0]) for i in range(1, 1001)))
    began = time.process_time()
    assert len(read(first, second, *names).jobs) == 1000
    took = time.process_time() - began
    print(f"{took:.3f} s for 1,000 jobs")
    assert took < 0.7


# --- cancel -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, "alice has registered the job 29 for deletion\n"),
        (0, "alice has deleted job 8\n"),
        (0, "job 29 is already in deletion\n"),
        (1, "job 29 is already in deletion\n"),
        (1, 'denied: job "29" does not exist\n'),
    ],
    ids=range(5),
)
def test_a_job_that_goes_or_is_gone_is_cancelled(status: int, said: str) -> None:
    sge.read_cancel(Completed(status, said))


@pytest.mark.parametrize(
    ("completed", "error"),
    [
        (Completed(1, NO_SEND, REFUSED_CONNECTION), QueueUnreachable),
        (Completed(1, NO_SEND), QueueUnreachable),
        (Completed(1, 'denied: host "sgen1" is not a submit host\n'), CancelRefused),
        (Completed(0, ""), QueueUnreachable),
        (Completed(124, "alice has deleted job 8\n"), QueueUnreachable),
        (
            Completed(0, "alice has deleted job 8\n", "error: commlib error: got read error\n"),
            QueueUnreachable,
        ),
        (Completed(1, "something odd\n"), QueueUnreachable),
        (Completed(0, "denied\n"), QueueUnreachable),
    ],
    ids=["down", "hung", "denied", "silent", "limit", "lost", "odd", "denied-or-not"],
)
def test_a_cancel_that_is_not_clear_is_tried_again(completed: Completed, error: type[Exception]) -> None:
    with pytest.raises(error):
        sge.read_cancel(completed)


def test_a_refusal_to_cancel_is_told_in_qdels_own_words() -> None:
    with pytest.raises(CancelRefused) as caught:
        sge.read_cancel(Completed(1, "bob lacks the privileges of X.\n"))
    assert caught.value.public == "The cluster will not stop the job: bob lacks the privileges of X."


# --- the end ------------------------------------------------------------------------------------------------

QSUB_TIME = datetime(2026, 11, 23, 10, 10, 17, tzinfo=UTC)


def ending(
    name: str, submitted: datetime | None = QSUB_TIME, owner: str = "sgeu1"
) -> tuple[object, ...] | None:
    asked = Asked(name, owner, JobId("1"), submitted)
    end = sge.read_accounting(recorded("qacct.txt"), asked)
    return (end.state, end.exit_status, end.signal) if end else None


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("acc_ok", (JobState.COMPLETED, 0, None)),
        ("acc_3", (JobState.FAILED, 3, None)),
        ("acc_127", (JobState.FAILED, 127, None)),
        ("acc_hrt", (JobState.WALLTIME, None, None)),
        ("acc_segv", (JobState.FAILED, None, 11)),
        ("acc_del", (JobState.CANCELLED, None, 9)),
        ("acc_eqw", (JobState.FAILED, None, None)),
        ("acc_100", (JobState.FAILED, None, None)),
        ("acc_99", None),  # it was put back each time: it has not ended
        ("acc_nobody", None),
    ],
)
def test_how_a_job_ended(name: str, how: tuple[object, ...] | None) -> None:
    assert ending(name) == how


def test_an_id_that_came_again_is_another_job() -> None:
    assert ending("acc_ok", owner="sgeu2") is None
    assert ending("acc_ok", QSUB_TIME + timedelta(hours=2)) is None
    assert ending("acc_ok", QSUB_TIME + timedelta(minutes=5))  # the clocks differ
    assert ending("acc_ok", None)


def test_a_job_ended_early_for_its_memory_did_not_run_out_of_time() -> None:
    text = recorded("qacct.txt").stdout.replace("-q all.q -l h_rt=5", "-q all.q -l h_rt=600,h_vmem=200M")
    end = sge.read_accounting(Completed(0, text), Asked("acc_hrt", "sgeu1", JobId("1")))
    assert end
    assert end.state is JobState.OUT_OF_MEMORY


def test_an_accounting_that_does_not_know_the_job_yet_says_nothing() -> None:
    job = Asked(NAME, "alice", JobId("4711"))
    assert sge.read_accounting(Completed(1, "", "error: job id 4711 not found\n"), job) is None
    with pytest.raises(QueueUnreachable):
        sge.read_accounting(Completed(1, "", "error: something else\n"), job)
    assert sge.accounting_lag >= 15


# --- discovery ----------------------------------------------------------------------------------------------


def test_what_a_node_has_of_gpus_is_what_is_left_and_what_jobs_hold() -> None:
    """qhost says 2 at that time; only where each job holds so many (JOB) is it known how many it holds."""
    names = ("qconf-sq.txt", "qhost.xml", "qconf-sc.txt", "qstat-j.xml")
    queues, hosts, complexes, first = (recorded(name) for name in names)
    holds = row(29, "r", "other", "bob", "sgen1").replace(
        "<slots>1</slots>", '<slots>4</slots><hard_request name="gpu">3</hard_request>'
    )
    each_job = Completed(0, re.sub(r"^(gpu .*YES +)YES", r"\1JOB", complexes.stdout, flags=re.M))
    found = sge.read_discovery([queues, hosts, each_job, first, listed(holds)], INSTANCE, MARK)
    assert [room.gpus for room in found.rooms] == [{"gpu": 5}, {"gpu": 5}]
    for kinds, jobs in ((complexes, listed(holds)), (Completed(124), listed()), (each_job, Completed(1))):
        found = sge.read_discovery([queues, hosts, kinds, first, jobs], INSTANCE, MARK)
        assert [room.gpus for room in found.rooms] == [{}, {}]


def test_a_real_cluster_is_discovered() -> None:
    names = ("qconf-sq.txt", "qhost.xml", "qconf-sc.txt", "qstat-j.xml", "qstat-r.xml")
    found = sge.read_discovery([recorded(name) for name in names], INSTANCE, MARK)
    long, short = found.room("long.q"), found.room("short.q")
    assert long
    assert short
    assert (long.max_walltime, short.max_walltime) == (120, 10)
    assert (short.max_cores, short.cores, short.free_cores, short.nodes, short.free_nodes) == (8, 8, 7, 1, 0)
    assert (short.waiting, long.waiting) == (1, 1)
    assert short.free_gpus == {"gpu": 2}
    assert short.max_memory
    assert (short.closed, short.accounts) == ("", None)
    assert {job.name[-1] for job in found.ours or ()} == set("abcdef")
    assert dict(found.positions) == {"27": 1, "28": 1}
    assert found.features == ("display_win_gui",)
    assert found.hidden is False


@pytest.mark.parametrize(
    ("letters", "closed"),
    [("", ""), ("d", "queue state d"), ("au", "queue state au"), ("E", "queue state E")],
)
def test_a_queue_that_is_closed_on_all_nodes_is_closed(letters: str, closed: str) -> None:
    text = recorded("qhost.xml").stdout.replace("'state_string'></", f"'state_string'>{letters}</")
    answers = [Completed(124)] * 5
    answers[0], answers[1] = recorded("qconf-sq.txt"), Completed(0, text)
    short = sge.read_discovery(answers, INSTANCE, MARK).room("short.q")
    assert short
    assert short.closed == closed
    assert short.free_cores == (0 if closed else 7)


# --- the script ---------------------------------------------------------------------------------------------

SITE = """\
version: 1
name: labsge
title: Grid Engine
scheduler: sge
login: {hosts: [h], user: svc, key: /k, known_hosts: /h, act_as: sudo}
partitions: [{name: short.q, title: Short, max_walltime: 10m, max_cores: 4, max_memory: 4G, default: true}]
applications: [{name: lab, title: Lab, command: [jupyter, lab], requeue: true}]
"""


def directives(header: str = "", site: str = SITE, **choices: object) -> list[str]:
    asked = {"walltime": 10, "cores": 1, "memory": 1000, **choices}
    made = Choices("labsge", "lab", "short.q", **asked)  # type: ignore[arg-type]
    facts = JobFacts(INSTANCE, "abcdefghia", "0" * 16, "alice", "", "/user/alice/", node_tls=True)
    script = render_script(parse_site_config(site, "x"), made, facts, header=header)
    return [line.removeprefix("#$ ") for line in script.splitlines() if line.startswith("#$")]


def test_the_script_asks_for_what_was_chosen() -> None:
    plain = directives()
    assert plain[:3] == ["-clear", f"-N {NAME}", "-q short.q"]
    assert {"-l h_rt=600", "-l s_rt=580", "-l mem_free=1000M", "-r y", "-w e", "-S /bin/sh"} <= set(plain)
    assert not any(line.startswith(("-pe", "-P", "-ar", "-l gpu", "-l exclusive")) for line in plain)
    more = directives(
        "#$ -l site=1",
        cores=3,
        gpus=2,
        gpu_type="a100",
        account="proj",
        reservation="17",
        constraint="avx",
        exclusive=True,
    )
    wanted = ["-pe smp 3", "-l a100=2", "-P proj", "-ar 17", "-l avx=true", "-l exclusive=true", "-l site=1"]
    assert set(wanted) <= set(more)
    assert "-l mem_free=334M" in more  # Grid Engine counts it for each slot


def test_a_sites_own_names_are_asked_for_by_them() -> None:
    own = "script: {resources: {pe: threads, memory: h_vmem, gpus: ngpu, exclusive: alone}}\n"
    lines = directives(site=SITE + own, cores=2, gpus=1, exclusive=True)
    assert {"-pe threads 2", "-l h_vmem=500M", "-l ngpu=1", "-l alone=true"} <= set(lines)


def test_a_walltime_too_short_for_a_warning_has_none() -> None:
    assert not any("s_rt" in line for line in directives(walltime=2))


# --- what an accounting record says -------------------------------------------------------------------------


def record(**values: str) -> Completed:
    """Return a record of NAME as qacct prints it."""
    said = {"jobname": NAME, "owner": "alice", "failed": "0", "exit_status": "0", **values}
    return Completed(0, "=" * 62 + "\n" + "".join(f"{key:<12} {value}\n" for key, value in said.items()))


def ended(submitted: datetime | None = None, **values: str) -> JobEnd | None:
    return sge.read_accounting(record(**values), Asked(NAME, "alice", JobId("7"), submitted))


@pytest.mark.parametrize(
    ("failed", "status", "state", "signal"),
    [
        ("100 : assumedly after job", "129", JobState.FAILED, 1),
        ("100 : assumedly after job", "128", JobState.FAILED, None),
        ("100 : assumedly after job", "137", JobState.CANCELLED, 9),
        ("17 : died by signal", "143", JobState.FAILED, 15),
        ("17 : died by signal", "137", JobState.CANCELLED, 9),
        ("20 : no pe hosts", "0", JobState.NODE_FAILED, None),
        ("21 : in recognizing job", "0", JobState.NODE_FAILED, None),
        ("22 : lost on node", "0", JobState.NODE_FAILED, None),
        ("24 : migrating", "0", JobState.NODE_FAILED, None),
        ("27 : searching requested shell", "0", JobState.FAILED, None),
        ("28 : changing into working directory", "0", JobState.FAILED, None),
        ("999 : no such number", "0", JobState.UNKNOWN, None),
    ],
)
def test_a_number_of_grid_engines_is_a_state(
    failed: str, status: str, state: JobState, signal: int | None
) -> None:
    end = ended(failed=failed, exit_status=status)
    assert end == JobEnd(state, None, signal, native=f"failed {failed}; exit_status {status}")


def test_what_failed_before_the_job_began_is_a_failure() -> None:
    """accounting(5), "failed": all but what a signal, a limit, or a lost node did."""
    for number in (*range(1, 17), 18, 19, *range(26, 32), 36, 38):
        end = ended(failed=f"{number} : some words")
        assert end
        assert end.state is JobState.FAILED, number


def test_a_limit_of_which_nothing_more_is_said_is_the_walltime() -> None:
    end = ended(failed="37 : qmaster enforced h_rt, h_cpu, or h_vmem limit", exit_status="137")
    assert end
    assert end.state is JobState.WALLTIME


@pytest.mark.parametrize("missing", ["failed", "exit_status"])
def test_a_record_without_its_numbers_says_nothing(missing: str) -> None:
    assert ended(None, **{missing: ""}) is None
    text = re.sub(rf"^{missing} .*\n", "", record().stdout, flags=re.M)
    assert sge.read_accounting(Completed(0, text), Asked(NAME, "alice", JobId("7"))) is None


@pytest.mark.parametrize(
    ("category", "ran", "state"),
    [
        ("-l h_rt=600,h_vmem=1G", "539", JobState.OUT_OF_MEMORY),
        ("-l h_rt=600,h_vmem=1G", "540", JobState.WALLTIME),
        ("-l h_rt=600,h_vmem=1G", "600", JobState.WALLTIME),
        ("-l h_rt=600", "10", JobState.WALLTIME),
        ("-l h_vmem=1G", "10", JobState.WALLTIME),
        ("-l h_rt=600,h_vmem=1G", "", JobState.WALLTIME),
        ("", "10", JobState.WALLTIME),
    ],
)
def test_the_limit_that_ended_a_job_is_told_by_the_time_it_had_left(
    category: str, ran: str, state: JobState
) -> None:
    end = ended(failed="37 : qmaster enforced h_rt", exit_status="137", category=category, ru_wallclock=ran)
    assert end
    assert end.state is state


@pytest.mark.parametrize("when", ["", "-/-", "Thu Jan  1 00:00:00 1970"])
def test_a_record_that_does_not_say_when_it_was_handed_in_is_this_jobs(when: str) -> None:
    assert ended(QSUB_TIME, qsub_time=when)
    assert ended(QSUB_TIME, qsub_time="Thu Jan  1 00:00:01 1970") is None


# --- what a discovery holds ---------------------------------------------------------------------------------


def rooms_of(queue: str, *hosts: str) -> Sequence[Room]:
    """Return the rooms of a queue ``q``, whose further lines are given, on these hosts."""
    answers = [Completed(124)] * 5
    answers[0] = Completed(0, f"qname q\nqtype BATCH\n{queue}")
    answers[1] = Completed(0, f"<qhost>{''.join(hosts)}</qhost>")
    return sge.read_discovery(answers, INSTANCE, MARK).rooms


def host(name: str, slots: int, used: int, reserved: int = 0, letters: str = "", **resources: str) -> str:
    values = "".join(
        f"<resourcevalue name='{key}' dominance='hl'>{value}</resourcevalue>"
        for key, value in resources.items()
    )
    shown = {"slots": slots, "slots_used": used, "slots_resv": reserved, "state_string": letters}
    states = "".join(f"<queuevalue name='{key}'>{value}</queuevalue>" for key, value in shown.items())
    return f"<host name='{name}'>{values}<queue name='q'>{states}</queue></host>"


def test_a_queue_has_the_largest_node_and_what_is_free_on_those_that_are_open() -> None:
    (room,) = rooms_of(
        "projects physics,chemistry\nh_rt 48:00:00\n",
        host("a", 8, 3, 1, mem_total="15.500G", gpu="2"),
        host("b", 4, 0, mem_total="1536M", gpu="1"),
        host("c", 16, 0, letters="d", mem_total="2T", gpu="4"),
        host("d", 2, 5),
    )
    assert (room.max_walltime, room.max_cores, room.max_memory) == (2880, 16, 2 * 1024 * 1024)
    assert (room.nodes, room.free_nodes, room.cores, room.free_cores) == (4, 1, 30, 8)
    assert room.free_gpus == {"gpu": 3}
    assert room.accounts == frozenset({"physics", "chemistry"})
    assert room.closed == ""


def test_a_queue_without_nodes_says_nothing_of_them() -> None:
    (room,) = rooms_of("projects NONE,[@big=x]\nh_rt INFINITY\n")
    assert (room.nodes, room.free_nodes, room.cores, room.free_cores, room.max_cores) == (None,) * 5
    assert (room.max_walltime, room.accounts, room.free_gpus, room.closed) == (None, None, None, "")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("59", 0),
        ("3600", 60),
        ("1:30:59", 90),
        ("1209600", 20160),
        ("999999999:0:0", None),
        ("9" * 5000, None),
        ("1:30", None),
        ("INFINITY", None),
        ("a:b:c", None),
        ("", None),
    ],
)
def test_a_queues_limit_is_seconds_or_hours_minutes_and_seconds(text: str, minutes: int | None) -> None:
    (room,) = rooms_of(f"h_rt {text}\n")
    assert room.max_walltime == minutes


def waiting_row(number: int, name: str, *queues: str) -> str:
    asked = "".join(f"<hard_req_queue>{queue}</hard_req_queue>" for queue in queues)
    return row(number, "qw", name).replace("<slots>", f"{asked}<slots>")


def test_a_place_is_counted_in_the_queue_where_a_job_is_first() -> None:
    jobs = [
        waiting_row(1, "x", "a"),
        waiting_row(2, "x", "a"),
        waiting_row(3, "x", "b@cn1"),
        waiting_row(4, "x"),
        waiting_row(5, NAME, "a", "b"),
        waiting_row(6, NAME),
        waiting_row(7, NAME, "c"),
    ]
    prefix = NAME.removesuffix(NAME[-10:])
    assert positions(list(rows(listed(*jobs))), prefix) == {"5": 3, "6": 6, "7": 3}


def test_places_take_no_more_time_than_there_are_jobs() -> None:
    jobs = [Row(str(number), NAME, "alice", "qw", "", frozenset({"a", "b"})) for number in range(50_000)]
    assert positions(jobs, NAME)[JobId("49999")] == 50_000


def test_a_document_that_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.schedulers.sge_documents._LONGEST_DOCUMENT", 100)
    with pytest.raises(QueueUnreachable, match="too many to read"):
        read(detailed(), listed(row(1, "r"), row(2, "r")))


def test_interactive_queues_are_none_of_ours() -> None:
    answers = [Completed(124)] * 5
    answers[0] = Completed(0, "qname i\nqtype INTERACTIVE\n\nqname n\nslots 1\n\nqname b\nqtype BATCH\n")
    assert [room.name for room in sge.read_discovery(answers, INSTANCE, MARK).rooms] == ["b"]
    assert sge.read_discovery(answers, INSTANCE, MARK).hidden is None


def test_the_gpus_of_a_queue_are_the_most_that_a_node_has_of_each_kind() -> None:
    """What is left there (qhost) and what jobs hold; a complex has a name and a shortcut."""
    complexes = "".join(
        f"{kind} {kind[-1]}x INT <= YES JOB 0 0\n" for kind in ("gpu", "gpu_a", "gpu_b", "slots")
    )
    holds = [
        row(number, "r" if node else "qw", "x", host=node).replace(
            "<slots>", f"<hard_request name='gpu'>{count}</hard_request><slots>"
        )
        for number, (node, count) in enumerate([("a", 1), ("a", 2), ("", 8)], 1)
    ]
    nodes = host("a", 1, 0, gpu="2") + host("b", 1, 0, gpu="4", gpu_a="3") + host("c", 1, 0, gpu_b="0")
    answers = [Completed(124)] * 5
    answers[0] = Completed(0, "qname q\nqtype BATCH\n")
    answers[1] = Completed(0, f"<qhost>{nodes}</qhost>")
    answers[2], answers[4] = Completed(0, f"#name shortcut\n{complexes}"), listed(*holds)
    (room,) = sge.read_discovery(answers, INSTANCE, MARK).rooms
    assert room.gpus == {"gpu": 5, "gpu_a": 3, "gpu_b": 0}
    assert room.free_gpus == {"gpu": 6, "gpu_a": 3, "gpu_b": 0}


def test_who_names_no_queue_waits_in_front_of_each() -> None:
    answers = [Completed(124)] * 5
    answers[0] = Completed(0, "qname a\nqtype BATCH\n\nqname b\nqtype BATCH\n")
    answers[4] = listed(waiting_row(1, "x", "a"), waiting_row(2, "x"), waiting_row(3, "x"), row(4, "r"))
    rooms = sge.read_discovery(answers, INSTANCE, MARK).rooms
    assert {room.name: room.waiting for room in rooms} == {"a": 3, "b": 2}


def test_a_value_that_goes_on_in_the_next_line_is_one() -> None:
    (room,) = rooms_of("projects physics, \\\n          chemistry\nh_rt 0:10:0\n")
    assert (room.accounts, room.max_walltime) == (frozenset({"physics", "chemistry"}), 10)


def test_no_more_queues_are_looked_at_than_a_form_can_have() -> None:
    answers = [Completed(124)] * 5
    many = "\n".join(f"qname q{number}\nqtype BATCH\n" for number in range(MOST_ROOMS + 1))
    answers[0] = Completed(0, many)
    assert len(sge.read_discovery(answers, INSTANCE, MARK).rooms) == MOST_ROOMS


def test_a_discovery_without_an_answer_is_logged() -> None:
    failed = [Completed(1, "", "first"), *[Completed(2, "", "second")] * 4]
    with pytest.raises(QueueUnreachable, match=r"^qconf: exit status 1: first$"):
        sge.read_discovery(failed, INSTANCE, MARK)
    with pytest.raises(QueueUnreachable, match=r"^Grid Engine: nothing that was asked was answered$"):
        sge.read_discovery([Completed(0, "x")] * 5, INSTANCE, MARK)


@pytest.mark.parametrize(
    ("size", "megabytes"),
    [
        *(("1048576", 1), ("2048K", 2), ("3M", 3), ("2G", 2048), ("1T", 2**20)),
        *(("1048576k", 1000), ("1048576m", 10**6), ("1048.576g", 10**6), ("1.5G", 1536)),
        *(("much", None), ("", None), ("1P", None), ("\u0663M", None)),
    ],
)
def test_memory_is_read_in_all_of_grid_engines_units(size: str, megabytes: int | None) -> None:
    (room,) = rooms_of("", host("a", 1, 0, mem_total=size))
    assert room.max_memory == megabytes


def test_what_shows_a_cluster_is_asked_in_one_line_per_value() -> None:
    queues = sge.discovery_commands(INSTANCE, MARK)[0]
    assert (queues.words, queues.environment) == (("qconf", "-sq", "*"), ("SGE_SINGLE_LINE=1",))
