"""A site config from several files and from what the scheduler says."""

from __future__ import annotations

import pytest

from gateway.discovery import Discovery, Room
from gateway.errors import ConfigError
from gateway.siteconfig import SiteConfig
from gateway.sitemerge import complete, merge

TRUSTED = """\
version: 1
name: cascade
title: Cascade
scheduler: slurm
login: {hosts: [login1], user: svc, key: /etc/k, known_hosts: /etc/h, act_as: sudo}
partitions:
  - {name: short, max_walltime: 4h, gpus: {a100: 4}}
accounts: [a, b]
applications:
  - {name: lab, title: JupyterLab, command: [jupyter, lab]}
form:
  hide: [qos]
  fix: {cores: 4}
"""


def merged(*drop_ins: str) -> SiteConfig:
    files = [(f"version: 1\n{text}", f"site.d/{number}.yaml") for number, text in enumerate(drop_ins)]
    return merge((TRUSTED, "cascade.yaml"), files)


def faults(*drop_ins: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        merged(*drop_ins)
    return str(caught.value).splitlines()


def test_named_things_are_joined_key_by_key_and_the_last_word_counts() -> None:
    site = merged(
        "title: Kaskade\npartitions: [{name: long, max_walltime: 7d}, {name: short, max_cores: 8}]",
        "partitions: [{name: short, max_walltime: 2h, gpus: {v100: 2}}]\n"
        "applications: [{name: lab, prologue: module load x}]",
    )
    short, long = site.partitions
    assert (short.name, short.max_walltime, short.max_cores, short.gpus) == ("short", 120, 8, {"v100": 2})
    assert (long.name, long.max_walltime) == ("long", 7 * 24 * 60)
    (lab,) = site.applications
    assert (lab.title, lab.prologue) == ("JupyterLab", "module load x")
    assert site.title == "Kaskade"
    assert site.login.hosts == ("login1",)


def test_the_forms_parts_are_joined_and_other_lists_replaced() -> None:
    site = merged(
        "accounts: [c]\nform: {hide: [account], fix: {gpus: 0}, presets: [{name: s, title: S, values: {}}]}",
        "form: {fix: {cores: 2}, presets: [{name: s, title: Small}]}\nmessages: {form: Hello}",
    )
    assert site.accounts == ("c",)
    assert site.form.hide == ("account",)
    assert site.form.fix == {"cores": "2", "gpus": "0"}
    assert [preset.title for preset in site.form.presets] == ["Small"]
    assert (site.messages.form, site.messages.login) == ("Hello", "")


def test_a_fault_names_the_file_that_says_it() -> None:
    found = faults("partitions:\n  - {name: short, max_walltime: soon}", "accounts: [a]\nform:\n  hide: [x]")
    assert len(found) == 1
    assert found[0].startswith("site.d/0.yaml:3: partitions[0].max_walltime: write a walltime")
    (fault,) = faults("accounts: [c]", "form:\n  fix: {partition: long}")
    assert fault == "site.d/1.yaml:3: form.fix.partition: there is no partition long: there is short"


def test_all_bad_files_are_told_at_once() -> None:
    found = faults("login: {}", "title: ]", "title: *x")
    assert [fault.partition(": ")[0] for fault in found] == [f"site.d/{n}.yaml:2" for n in range(3)]


def test_the_same_name_twice_in_one_file_is_a_fault() -> None:
    (fault,) = faults("partitions:\n  - {name: short}\n  - {name: short, max_cores: 2}")
    assert fault == "site.d/0.yaml:2: partitions: short is there twice"


def test_a_drop_in_may_speak_of_what_another_one_adds() -> None:
    site = merged("form: {rename: {project: P}}", "form: {fields: [{name: project, label: Project}]}")
    assert [field.name for field in site.form.fields] == ["project"]


def test_a_scheduler_that_is_not_there_is_told_with_its_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^c\.yaml:4: scheduler: there is no scheduler lsf: there is local, "
    ):
        merge((TRUSTED.replace("slurm", "lsf"), "c.yaml"))


@pytest.mark.parametrize("line", ["#SBATCH --array=1-9", "#SBATCH hetjob", "#SBATCH --job-name=x"])
def test_arrays_and_heterogeneous_jobs_and_what_takes_our_directives_back_are_refused(line: str) -> None:
    (fault, *_) = faults(f"script:\n  header: |\n    {line}\n")
    assert fault.startswith("site.d/0.yaml:3: script.header: ")


def test_a_sites_own_names_are_joined_by_what_they_are_for_and_must_be_of_the_scheduler() -> None:
    trusted = TRUSTED.replace("slurm", "sge") + "script: {resources: {pe: threads, gpus: ngpu}}\n"
    drop_in = "version: 1\nscript:\n  resources: {pe: smp16}\n", "d.yaml"
    assert merge((trusted, "c.yaml"), [drop_in]).script.resources == {"pe": "smp16", "gpus": "ngpu"}
    (fault,) = faults("script:\n  header: export A=1\n  resources:\n    gpus: ngpu")
    told = "script.resources.gpus: there is no such name with slurm: there is none at all"
    assert fault == f"site.d/0.yaml:5: {told}"
    (fault,) = faults("script: {resources: {gpus: a b}}")
    assert "'a b' is not allowed here" in fault


# --- what the scheduler says ------------------------------------------------------------------------------

ROOMS = (
    Room("short", max_walltime=600, default_walltime=300, max_cores=64, max_memory=1000, gpus={"v100": 8}),
    Room("long", default=True, max_cores=128, gpus={"": 2, "bad type": 1, "none": 0}, closed="DOWN"),
    Room("old", closed="INACTIVE"),
    Room("what a name"),
)


def test_what_is_said_stays_and_what_is_not_is_the_schedulers() -> None:
    (short,) = complete(merged(), Discovery(ROOMS)).partitions
    assert (short.max_walltime, short.default_walltime) == (240, 240)
    assert (short.max_cores, short.max_memory, short.gpus) == (64, 1000, {"a100": 4})


def test_without_partitions_of_its_own_a_site_has_the_schedulers() -> None:
    site = complete(merged("partitions: []"), Discovery(ROOMS))
    short, long = site.partitions
    assert (short.name, short.default, short.gpus, short.max_walltime) == ("short", False, {"v100": 8}, 600)
    assert (long.name, long.default, long.gpus, long.max_walltime) == ("long", True, {"": 2}, None)


def test_a_scheduler_that_has_said_nothing_changes_nothing() -> None:
    site = merged()
    assert complete(site, None) is site
    assert complete(site, Discovery()) is site
    assert complete(site, Discovery(ROOMS[1:])).partitions == site.partitions
