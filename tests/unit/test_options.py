"""The form: its fields, and what is refused of what comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidChoice
from gateway.model import Choices, User
from gateway.options import Kind, check, fields, format_memory, format_walltime, from_strings, typed
from gateway.siteconfig import SiteConfig, parse_site_config

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


def chosen(*words: str, cluster: str = "lab", sites: dict[str, SiteConfig] | None = None) -> Choices:
    return check(sites or SITES, from_strings(cluster, words))


def refused(*words: str, cluster: str = "lab") -> tuple[str, str]:
    with pytest.raises(InvalidChoice) as caught:
        chosen(*words, cluster=cluster)
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
            "gpu has no GPUs of type 'v100'. It has: a100, h100.",
        ),
        (["partition=one", "gpu_type=h100"], "gpu_type", "one has no GPUs of type 'h100'. It has: a100."),
        (["script=rm"], "script", "The lab has no such field: 'script'."),
        (["cores=1", "cores=2"], "cores", "'cores' is there more than once."),
        (["cluster=bare"], "cluster", "'cluster' is there more than once."),
        (["walltime"], "walltime", "Write an option as key=value, not as 'walltime'."),
    ],
)
def test_a_refusal_names_the_field_and_the_limit(words: list[str], field: str, sentence: str) -> None:
    assert refused(*words) == (field, sentence)


def test_a_site_without_gpus_or_accounts_has_no_such_fields() -> None:
    for name in ("gpus", "gpu_type", "account"):
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
    assert chosen("partition=gpu", "gpu_type=a100").gpu_type is None
    assert chosen("partition=gpu", "gpus=1").gpu_type is None
    assert chosen("partition=one", "gpus=1").gpu_type == "a100"


def test_the_form_offers_what_check_takes() -> None:
    form = fields(SITE, User("alice"))
    assert [f.name for f in form] == [
        "cluster",
        "application",
        "partition",
        "walltime",
        "cores",
        "memory",
        "gpus",
        "gpu_type",
        "account",
    ]
    assert chosen() == check(SITES, {f.name: [f.default] for f in form})
    for field in form:
        for option in field.choices:
            assert chosen(
                *([f"{field.name}={option.value}"] if field.name not in ("cluster", "gpu_type") else [])
            )
    partition = next(f for f in form if f.name == "partition")
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
def test_whatever_comes_back_is_within_the_limits_or_refused(form: dict[str, list[str]]) -> None:
    try:
        choices = check(SITES, form)
    except InvalidChoice:
        return
    site = SITES[choices.cluster]
    partition = site.partition(choices.partition)
    assert partition is not None
    assert 1 <= choices.walltime <= partition.max_walltime
    assert 1 <= choices.cores <= partition.max_cores
    assert 1 <= choices.memory <= partition.max_memory
    assert choices.gpus <= max(partition.gpus.values(), default=0)
    assert site.application(choices.application)
    assert choices.account in (site.accounts or (None,))
