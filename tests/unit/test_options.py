"""The form: its fields, and what is refused of what comes back."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.discovery import Discovery, Downtime, Room
from gateway.errors import InvalidChoice
from gateway.model import Choices, User
from gateway.options import (
    Kind,
    check,
    faults,
    fields,
    form,
    form_description,
    format_memory,
    format_walltime,
    from_strings,
    typed,
)
from gateway.rules import Measure, Rule, broken
from gateway.siteconfig import AddedField, Form, Partition, Script, SiteConfig, parse_site_config

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

SITE = parse_site_config(
    """
version: 1
name: lab
title: The lab
scheduler: slurm
login: {hosts: [login], user: svc, key: /k, known_hosts: /h, act_as: sudo}
accounts: [proj1, proj2]
partitions:
  - {name: debug, max_walltime: 1h, default_walltime: 30m, max_cores: 4, max_memory: 2000M}
  - {name: short, max_walltime: 10m, max_cores: 4, max_memory: 4G, default: true}
  - {name: gpu, title: Graphics, max_walltime: 2d, max_cores: 1, max_memory: 4G, gpus: {a100: 2, h100: 1}}
  - {name: one, max_walltime: 10m, max_memory: 4G, gpus: {a100: 1}}
applications:
  - {name: lab, title: JupyterLab, command: [jupyter, lab]}
  - {name: old, title: Notebook, command: [jupyter, notebook]}
""",
    "lab.yaml",
)
BARE = SITE.model_copy(
    update={
        "name": "bare",
        "partitions": SITE.partitions[:1],
        "accounts": (),
        "applications": SITE.applications[:1],
    }
)
SITES = {"lab": SITE, "bare": BARE}


ALICE = User("alice")


def chosen(
    *words: str,
    cluster: str = "lab",
    user: User | None = ALICE,
    discovery: Discovery | None = None,
    sites: dict[str, SiteConfig] | None = None,
) -> Choices:
    return check(sites or SITES, from_strings(cluster, words), user, {cluster: discovery or Discovery()})


def refused(*words: str, cluster: str = "lab", **more: Any) -> tuple[str, str]:
    with pytest.raises(InvalidChoice) as caught:
        chosen(*words, cluster=cluster, **more)
    return caught.value.field, caught.value.public


def test_what_is_left_out_gets_the_chosen_partitions_default() -> None:
    assert chosen() == Choices("lab", "lab", "short", 10, 1, 2048, account="proj1")
    assert chosen("partition=debug", "walltime=", "memory= ") == Choices(
        "lab", "lab", "debug", 30, 1, 2000, account="proj1"
    )
    assert chosen(cluster="bare") == Choices("bare", "lab", "debug", 30, 1, 2000)


def test_everything_can_be_chosen() -> None:
    words = ["application=old", "partition=gpu", "walltime=1-00:00:00", "cores=1", "memory=4G", "gpus=2"]
    assert chosen(*words, "gpu_type=a100", "account=proj2") == Choices(
        "lab", "old", "gpu", 1440, 1, 4096, 2, "a100", "proj2"
    )


@pytest.mark.parametrize(
    ("words", "field", "sentence"),
    [
        (["partition=short", "walltime=11m"], "walltime", "The longest walltime on short is 10 minutes."),
        (["partition=debug", "walltime=61m"], "walltime", "The longest walltime on debug is 1 hour."),
        (["walltime=soon"], "walltime", "Write a walltime as 30m, 4h, 2d, HH:MM:SS or D-HH:MM:SS."),
        (["walltime=0m"], "walltime", "A walltime is at least one minute."),
        (["partition=debug", "memory=2001M"], "memory", "The most memory on debug is 2000 MB."),
        (["memory=5G"], "memory", "The most memory on short is 4 GB."),
        (["memory=4"], "memory", "Write memory as a whole number and a unit: 512M, 4G, 1T."),
        (["cores=5"], "cores", "The most cores on short is 4."),
        (["cores=0"], "cores", "Write the number of cores as a whole number, at least 1."),
        (["cores=1.5"], "cores", "Write the number of cores as a whole number, at least 1."),
        (["cores=٣"], "cores", "Write the number of cores as a whole number, at least 1."),
        (["cores=-1"], "cores", "Write the number of cores as a whole number, at least 1."),
        (
            ["partition=nosuch"],
            "partition",
            "There is no partition 'nosuch'. There is: debug, short, gpu, one.",
        ),
        (["application=x"], "application", "There is no application 'x'. There is: lab, old."),
        (["account=proj3"], "account", "There is no account 'proj3'. There is: proj1, proj2."),
        (["partition=short", "gpus=1"], "gpus", "short has no GPUs."),
        (["partition=gpu", "gpus=3"], "gpus", "The most GPUs on gpu is 2."),
        (["partition=gpu", "gpus=2", "gpu_type=h100"], "gpus", "The most GPUs of type h100 on gpu is 1."),
        (["partition=gpu", "gpus=x"], "gpus", "Write the number of GPUs as a whole number, at least 0."),
        (
            ["partition=gpu", "gpu_type=v100"],
            "gpu_type",
            "There is no GPU type 'v100'. There is: a100, h100.",
        ),
        (
            ["partition=one", "gpus=1", "gpu_type=h100"],
            "gpu_type",
            "one has no GPUs of this type. It has: a100.",
        ),
        (["script=rm"], "script", "The lab has no such field: 'script'."),
        (["cores=1", "cores=2"], "cores", "'cores' is there more than once."),
        (["cluster=bare"], "cluster", "'cluster' is there more than once."),
        (["walltime"], "walltime", "Write an option as key=value, not as 'walltime'."),
    ],
)
def test_a_refusal_names_the_field_and_the_limit(words: list[str], field: str, sentence: str) -> None:
    assert refused(*words) == (field, sentence)


def test_a_site_without_gpus_or_accounts_has_no_such_fields() -> None:
    for name in ("gpus", "gpu_type", "account", "qos", "reservation", "constraint"):
        assert refused(f"{name}=", cluster="bare")[0] == name


def test_a_cluster_must_be_named_unless_there_is_one() -> None:
    with pytest.raises(InvalidChoice, match="There is no cluster ''"):
        check(SITES, {})
    with pytest.raises(InvalidChoice, match="There is no cluster 'x'"):
        check(SITES, {"cluster": ["x"]})
    with pytest.raises(InvalidChoice, match="There is no cluster"):
        check({}, {})
    assert check({"bare": BARE}, {}).cluster == "bare"


def test_no_gpus_have_no_type_and_a_single_type_is_taken() -> None:
    assert refused("partition=gpu", "gpu_type=a100") == (
        "gpu_type",
        "Say how many GPUs of this type you need.",
    )
    assert chosen("partition=gpu", "gpus=1").gpu_type is None
    assert chosen("partition=one", "gpus=1").gpu_type == "a100"


def test_the_form_offers_what_check_takes() -> None:
    shown = fields(SITE, User("alice"))
    assert [f.name for f in shown] == [
        "cluster",
        "application",
        "partition",
        "walltime",
        "cores",
        "memory",
        "gpus",
        "gpu_type",
        "account",
        "exclusive",
    ]
    assert chosen() == check(SITES, {f.name: [f.default] for f in shown})
    for field in shown:
        for option in field.choices:
            assert chosen(
                *([f"{field.name}={option.value}"] if field.name not in ("cluster", "gpu_type") else [])
            )
    partition = next(f for f in shown if f.name == "partition")
    assert partition.choices[2].label == "Graphics (up to 2 days, 1 core, 4 GB, 2 a100 GPUs, 1 h100 GPU)"


def test_a_field_with_one_choice_is_hidden() -> None:
    kinds = {f.name: f.kind for f in fields(BARE, User("alice"))}
    assert kinds["partition"] is kinds["application"] is kinds["cluster"] is Kind.HIDDEN
    assert "account" not in kinds


def test_choices_can_be_typed_again() -> None:
    for words in ([], ["partition=gpu", "gpus=1", "gpu_type=h100", "walltime=90m", "memory=1500M"]):
        choices = chosen(*words)
        assert check(SITES, {key: [value] for key, value in typed(choices).items()}) == choices


@pytest.mark.parametrize(
    ("minutes", "words"),
    [
        (1, "1 minute"),
        (10, "10 minutes"),
        (60, "1 hour"),
        (90, "1 hour 30 minutes"),
        (2881, "2 days 1 minute"),
    ],
)
def test_a_walltime_in_words(minutes: int, words: str) -> None:
    assert format_walltime(minutes) == words


@pytest.mark.parametrize(
    ("megabytes", "words"),
    [(512, "512 MB"), (2000, "2000 MB"), (1536, "1.5 GB"), (4096, "4 GB"), (1048576, "1 TB")],
)
def test_memory_in_words(megabytes: int, words: str) -> None:
    assert format_memory(megabytes) == words


@given(
    st.dictionaries(
        st.sampled_from(
            ["cluster", "partition", "walltime", "cores", "memory", "gpus", "gpu_type", "account", "x"]
        ),
        st.lists(
            st.one_of(st.sampled_from(["lab", "gpu", "1", "4G", "10m", "a100", "proj1"]), st.text()),
            max_size=2,
        ),
    )
)
def test_whatever_comes_back_is_within_the_limits_or_refused(sent: dict[str, list[str]]) -> None:
    try:
        choices = check(SITES, sent)
    except InvalidChoice:
        return
    site = SITES[choices.cluster]
    partition = site.partition(choices.partition)
    assert partition is not None
    assert 1 <= choices.walltime <= (partition.max_walltime or 0)
    assert 1 <= choices.cores <= (partition.max_cores or choices.cores)
    assert 1 <= choices.memory <= (partition.max_memory or 0)
    assert choices.gpus <= max(partition.gpus.values(), default=0)
    assert site.application(choices.application)
    assert choices.account in (site.accounts or (None,))


# --- what a site adds, hides, renames and fixes ---

SHAPED = parse_site_config(
    """
version: 1
name: shaped
title: Shaped
scheduler: slurm
login: {hosts: [login], user: svc, key: /k, known_hosts: /h, act_as: sudo}
partitions:
  - {name: open, max_walltime: 2h, max_cores: 4, max_memory: 4G}
  - {name: staff, max_walltime: 8h, max_cores: 4, max_memory: 4G, groups: [Staff, wheel]}
applications:
  - {name: lab, title: JupyterLab, command: [jupyter, lab]}
  - {name: rstudio, title: RStudio, command: [rserver], groups: [staff]}
form:
  fields:
    - {name: course, label: Course, kind: text, pattern: "[A-Z]{2}[0-9]{3}", required: true}
    - {name: software, label: Software, kind: choice, choices: {py: Python, jl: Julia}, default: jl}
    - {name: scratch, label: Scratch, kind: number, minimum: 1, maximum: 50}
    - {name: mail, label: Mail me, kind: checkbox, default: "true"}
  hide: [memory]
  rename: {cores: Processors}
  fix: {exclusive: "", cores: "2"}
  help: {course: As in the timetable}
  presets:
    - {name: quick, title: A quick look, values: {partition: open, walltime: 10m}}
    - {name: long, title: A long night, values: {partition: staff, walltime: 8h}}
  rules:
    - {field: walltime, when: {software: [jl]}, at_most: 1h, message: Julia is quick.}
""",
    "shaped.yaml",
)
STAFF = User("sue", groups=frozenset({"STAFF"}))


def shaped(*words: str, **more: Any) -> Choices:
    return chosen("course=AB123", *words, cluster="shaped", sites={"shaped": SHAPED}, **more)


def misshaped(*words: str, **more: Any) -> tuple[str, str]:
    return refused(*words, cluster="shaped", sites={"shaped": SHAPED}, **more)


def test_added_fields_reach_the_job_and_hidden_and_fixed_ones_keep_their_value() -> None:
    choices = shaped("scratch=5", "mail=", "software=py", "cores=2")
    assert choices.extra == {"course": "AB123", "software": "py", "scratch": "5", "mail": ""}
    assert (choices.cores, choices.memory, choices.exclusive) == (2, 2048, False)
    assert shaped().extra == {"course": "AB123", "software": "jl", "scratch": "", "mail": "true"}
    assert check({"shaped": SHAPED}, {name: [text] for name, text in typed(choices).items()}) == choices


@pytest.mark.parametrize(
    ("words", "field", "sentence"),
    [
        ([], "course", "Fill in Course."),
        (["course=AB12"], "course", "This is not what Course may be."),
        (["course=AB123\n"], "course", ""),
        (["course=AB123", "course=AB124"], "course", "'course' is there more than once."),
        (["course=AB123", "software=r"], "software", "There is no software 'r'. There is: py, jl."),
        (["course=AB123", "scratch=0"], "scratch", "Scratch is at least 1."),
        (["course=AB123", "scratch=51"], "scratch", "Scratch is at most 50."),
        (["course=AB123", "scratch=5GB"], "scratch", "Write Scratch as a whole number."),
        (["course=AB123", "walltime=61m"], "walltime", "Julia is quick."),
        (["course=AB123", "memory=1G"], "memory", "Memory cannot be chosen here: it is '2G'."),
        (["course=AB123", "cores=1"], "cores", "Processors cannot be chosen here: it is '2'."),
        (["course=AB123", "exclusive=true"], "exclusive", "A whole node cannot be chosen here: it is ''."),
        (["course=AB123", "mail=", "mail=x", "mail=true"], "mail", "'mail' is there more than once."),
    ],
)
def test_what_a_site_says_of_its_form_is_kept_to(words: list[str], field: str, sentence: str) -> None:
    if sentence:
        assert misshaped(*words) == (field, sentence)
    else:
        assert shaped().extra["course"] == "AB123", "blanks around a value are dropped"


@pytest.mark.parametrize("text", ["a\nb", "a\x00b", "a\x1bb", "x" * 201])
def test_an_added_field_holds_one_line(text: str) -> None:
    free = Form(fields=(AddedField(name="note", label="Note"),))
    sites = {"shaped": SHAPED.model_copy(update={"form": free})}
    assert chosen("note=é $(x) `y` '", cluster="shaped", sites=sites).extra == {"note": "é $(x) `y` '"}
    words = "Note is one line of at most 200 characters."
    assert refused(f"note={text}", cluster="shaped", sites=sites) == ("note", words)


def test_a_checkbox_and_the_hidden_field_before_it_are_one_value() -> None:
    assert shaped("mail=", "mail=true").extra["mail"] == "true"
    assert shaped("mail=").extra["mail"] == ""


def test_all_that_is_wrong_is_said_at_once() -> None:
    assert faults(SHAPED, {"cores": ["9"], "scratch": ["0"], "walltime": ["3h"]}, ALICE) == {
        "cores": "Processors cannot be chosen here: it is '2'.",
        "course": "Fill in Course.",
        "scratch": "Scratch is at least 1.",
        "walltime": "The longest walltime on open is 2 hours.",
    }


def test_what_ones_groups_do_not_let_one_see_cannot_be_chosen() -> None:
    shown = form(SHAPED, ALICE)
    assert [p.name for p in shown.offered.partitions] == ["open"]
    assert [preset.name for preset in shown.presets] == ["quick"]
    assert "staff" not in json.dumps(form_description(SHAPED, ALICE))
    assert misshaped("course=AB123", "partition=staff") == (
        "partition",
        "There is no partition 'staff'. There is: open.",
    )
    assert misshaped("course=AB123", "application=rstudio")[0] == "application"
    assert shaped("partition=staff", "application=rstudio", user=STAFF).partition == "staff"
    assert [preset.name for preset in form(SHAPED, STAFF).presets] == ["quick", "long"]
    assert shaped("partition=staff", user=None).partition == "staff", "an administrator's command line"


def test_who_sees_nothing_of_a_cluster_is_told_so() -> None:
    closed = SHAPED.model_copy(update={"partitions": SHAPED.partitions[1:]})
    assert not form(closed, ALICE).offered.usable
    with pytest.raises(InvalidChoice, match="Nothing on Shaped is open to you"):
        check({"shaped": closed}, {"cluster": ["shaped"]}, ALICE)


# --- what the scheduler has for a person ---

FOUND = Discovery(
    rooms=(
        Room("debug", accounts=frozenset({"proj1"}), qos=frozenset({"normal"})),
        Room("short", free_cores=3, cores=8, closed="DOWN"),
    ),
    accounts={"alice": ("proj2", "proj1", "-x"), "bob": ("proj3",)},
    qos={"alice": ("normal", "high")},
    downtimes=(
        Downtime("class", NOW, NOW, frozenset({"short"}), maintenance=False, users=frozenset({"alice"})),
        Downtime("lab2", NOW, NOW, maintenance=False, accounts=frozenset({"proj2"})),
        Downtime("theirs", NOW, NOW, maintenance=False, users=frozenset({"bob"})),
        Downtime("maint", NOW, NOW, users=frozenset({"alice"})),
    ),
    features=("skylake", "bad feature"),
)


def found(*words: str, **more: Any) -> Choices:
    return chosen(*words, discovery=FOUND, **more)


def test_accounts_qos_reservations_and_constraints_are_those_of_the_person() -> None:
    choices = found("account=proj2", "qos=high", "reservation=class", "constraint=skylake", "exclusive=true")
    assert (choices.account, choices.qos, choices.reservation) == ("proj2", "high", "class")
    assert (choices.constraint, choices.exclusive) == ("skylake", True)
    assert check(SITES, {n: [t] for n, t in typed(choices).items()}, ALICE, {"lab": FOUND}) == choices
    plain = found()
    assert (plain.qos, plain.reservation, plain.constraint, plain.exclusive) == (None, None, None, False)
    offered = {f.name: [o.value for o in f.choices] for f in fields(SITE, ALICE, FOUND)}
    assert offered["account"] == ["proj1", "proj2"]
    assert offered["reservation"] == ["", "class", "lab2"]
    assert offered["constraint"] == ["", "skylake"]
    own = {f.name: [o.value for o in f.choices] for f in fields(BARE, ALICE, FOUND)}
    assert own["account"] == ["proj2", "proj1"], "where the site names none, all of hers"


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["account=proj3"], "account"),
        (["account=-x"], "account"),
        (["qos=low"], "qos"),
        (["reservation=theirs"], "reservation"),
        (["reservation=maint"], "reservation"),
        (["reservation=class", "partition=debug"], "partition"),
        (["constraint=bad feature"], "constraint"),
        (["partition=debug", "account=proj2"], "account"),
        (["partition=debug", "qos=high"], "qos"),
    ],
)
def test_what_is_not_the_persons_is_refused(words: list[str], field: str) -> None:
    assert refused(*words, discovery=FOUND)[0] == field


def test_nobody_gets_an_account_that_the_scheduler_does_not_give_them() -> None:
    assert refused("account=proj1", discovery=FOUND, user=User("bob"))[0] == "account"
    assert found(user=User("zoe")).account is None


def test_on_a_command_line_any_account_may_be_named_that_can_stand_in_a_script() -> None:
    bare = {"bare": BARE}
    assert chosen("account=proj9", "qos=x", cluster="bare", user=None, sites=bare).account == "proj9"
    assert refused("account=a b", cluster="bare", user=None, sites=bare)[0] == "account"


def test_a_closed_partition_says_so() -> None:
    partition = next(f for f in fields(SITE, ALICE, FOUND) if f.name == "partition")
    assert partition.choices[1].label.endswith("closed: DOWN")


def test_a_limit_that_nobody_has_said_limits_nothing() -> None:
    free = Partition(name="free", default=True)
    site = BARE.model_copy(update={"partitions": (free,)})
    choices = chosen("walltime=300d", "cores=5000", "memory=90T", cluster="bare", sites={"bare": site})
    assert (choices.cores, choices.memory) == (5000, 90 * 1024 * 1024)
    assert chosen(cluster="bare", sites={"bare": site}).walltime == 60


def test_gpus_of_an_untold_type_have_none() -> None:
    site = BARE.model_copy(update={"partitions": (Partition(name="g", gpus={"g": 2}),)})
    site = site.model_copy(update={"partitions": (site.partitions[0].model_copy(update={"gpus": {"": 2}}),)})
    sites = {"bare": site}
    assert chosen("gpus=2", cluster="bare", sites=sites).gpu_type is None
    assert refused("gpu_type=a100", cluster="bare", sites=sites)[0] == "gpu_type"
    assert refused("gpus=3", cluster="bare", sites=sites)[0] == "gpus"


def test_the_browser_is_told_the_same_rules_in_json() -> None:
    told = json.loads(json.dumps(form_description(SHAPED, STAFF)))
    rules = [Rule(**rule) for rule in told["rules"]]
    measures = {field["name"]: Measure(field["measure"]) for field in told["fields"]}
    values = form(SHAPED, STAFF).values({"partition": "staff", "walltime": "2h"})
    assert [rule.message for rule in broken(rules, measures, values)] == ["Julia is quick."]


def test_a_form_is_filled_with_what_fits_and_the_partitions_own_defaults() -> None:
    values = form(SITE, ALICE).values({"partition": "debug", "application": "gone", "cores": "3"})
    assert (values["walltime"], values["memory"], values["cores"]) == ("30m", "2000M", "3")
    assert values["application"] == "lab"
    assert form(SITE, ALICE).values({"partition": "gone"})["walltime"] == "10m"


def test_a_whole_node_is_offered_where_the_scheduler_can_give_one() -> None:
    sge = BARE.model_copy(update={"scheduler": "sge"})
    made = Discovery(features=("exclusive", "ssd"))
    assert "exclusive" not in [f.name for f in fields(sge, ALICE, Discovery(features=("ssd",)))]
    shown = {f.name: [o.value for o in f.choices] for f in fields(sge, ALICE, made)}
    assert "exclusive" in shown
    assert shown["constraint"] == ["", "ssd"]
    assert chosen("exclusive=true", cluster="bare", sites={"bare": sge}, user=None).exclusive
    named = sge.model_copy(update={"script": Script(resources={"exclusive": "ssd"})})
    shown = {f.name: [o.value for o in f.choices] for f in fields(named, ALICE, made)}
    assert "exclusive" in shown
    assert shown["constraint"] == ["", "exclusive"]


# --- what the site fixes or names, whatever the scheduler says ---


def with_site(cluster: str = "bare", *, scheduler: str = "slurm", **update: Any) -> dict[str, SiteConfig]:
    return {cluster: SITES[cluster].model_copy(update={"scheduler": scheduler, **update})}


@pytest.mark.parametrize("discovery", [Discovery(), FOUND], ids=["nothing-found", "others-found"])
@pytest.mark.parametrize("name", ["account", "qos", "reservation", "constraint"])
def test_what_a_site_fixes_counts_and_is_shown_whatever_the_scheduler_has(
    name: str, discovery: Discovery
) -> None:
    rules = ({"field": name, "when": {"cores": ["2"]}, "one_of": ["x"], "message": "Not two."},)
    site = with_site(form=Form.model_validate({"fix": {name: "ours"}, "rules": rules}))
    choices = chosen(cluster="bare", sites=site, discovery=discovery, user=User("zoe"))
    assert getattr(choices, name) == "ours"
    assert chosen(*from_typed(choices), cluster="bare", sites=site, user=User("zoe")) == choices
    (shown,) = (f for f in fields(site["bare"], User("zoe"), discovery) if f.name == name)
    assert (shown.kind, shown.default) == (Kind.FIXED, "ours")
    assert refused(f"{name}=theirs", cluster="bare", sites=site, discovery=discovery)[0] == name
    assert refused("cores=2", cluster="bare", sites=site) == (name, "Not two."), "rules about it count"


def from_typed(choices: Choices) -> list[str]:
    return [f"{name}={text}" for name, text in typed(choices).items() if name != "cluster"]


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "sge"])
def test_a_whole_node_that_a_site_fixes_counts_on_every_scheduler(scheduler: str) -> None:
    site = with_site(scheduler=scheduler, form=Form(fix={"exclusive": "true"}))
    assert chosen(cluster="bare", sites=site).exclusive
    (shown,) = (f for f in fields(site["bare"], ALICE, Discovery()) if f.name == "exclusive")
    assert shown.kind is Kind.FIXED


def test_a_fixed_reservation_keeps_to_its_partitions_and_a_fixed_nothing_is_no_field() -> None:
    site = with_site("lab", form=Form(fix={"reservation": "class", "account": ""}))
    choices = chosen("partition=short", sites=site, discovery=FOUND)
    assert (choices.reservation, choices.account) == ("class", None)
    assert refused("partition=debug", sites=site, discovery=FOUND)[0] == "partition"


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "sge", "local"])
def test_what_a_site_names_is_offered_where_the_scheduler_does_not_tell(scheduler: str) -> None:
    named: dict[str, Any] = {
        "qos": ("gold",),
        "reservations": ("R12", "13"),
        "constraints": ("ssd", "exclusive"),
    }
    site = with_site(scheduler=scheduler, **named)
    choices = chosen("qos=gold", "reservation=13", "constraint=ssd", cluster="bare", sites=site)
    assert (choices.qos, choices.reservation, choices.constraint) == ("gold", "13", "ssd")
    assert chosen(cluster="bare", sites=site).qos is None
    offered = {f.name: [o.value for o in f.choices] for f in fields(site["bare"], ALICE)}
    assert offered["constraint"] == ["", "ssd", "exclusive"]


def test_of_what_a_site_names_nobody_gets_what_the_scheduler_keeps_from_them() -> None:
    site = with_site(qos=("high", "low"), reservations=("class", "theirs", "later"), constraints=("amd",))
    offered = {f.name: [o.value for o in f.choices] for f in fields(site["bare"], ALICE, FOUND)}
    assert (offered["qos"], offered["constraint"]) == (["", "high"], ["", "amd"])
    assert offered["reservation"] == ["", "class", "later"]
