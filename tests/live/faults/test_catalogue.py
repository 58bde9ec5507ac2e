"""Every fault of the catalogue is named by doctor, by the one step that it breaks, with its mend."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.lab import Lab
from tests.live.faults.catalogue import CATALOGUE, Fault
from tests.live.faults.trial import Trial

#: Those that break the lab itself come last, one after the other.
FAULTS = sorted(CATALOGUE, key=lambda fault: fault.alone)
#: Doctors that run at once, where each has a fault of its own.
AT_ONCE = 3
#: A trial's gateway is configured, and never started.
NEVER_STARTED = {"the hub runs", "HAProxy runs", "the tunnels' keeper runs"}


def examine(lab: Lab, fault: Fault) -> dict[str, Any]:
    trial = Trial(lab)
    try:
        with fault.plant(trial):
            return trial.doctor()
    finally:
        trial.remove()


def _bad(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in found["checks"] if check["status"] in ("not ok", "warning")}


@pytest.fixture(scope="module")
def together(lab: Lab, request: pytest.FixtureRequest) -> Mapping[str, Future[dict[str, Any]]]:
    """What doctor finds in the faults that do not disturb each other; they are over when this returns."""
    items = (getattr(item, "callspec", None) for item in request.session.items)
    named = [spec.params.get("fault") for spec in items if spec]
    wanted = [fault for fault in named if isinstance(fault, Fault)]  # other tests have faults of other kinds
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {fault.name: pool.submit(examine, lab, fault) for fault in wanted if not fault.alone}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_doctor_names_the_fault_and_its_mend(
    lab: Lab, together: Mapping[str, Future[dict[str, Any]]], fault: Fault
) -> None:
    found = examine(lab, fault) if fault.alone else together[fault.name].result()
    bad = {name: check for name, check in _bad(found).items() if name not in NEVER_STARTED}
    assert list(bad) == [fault.step], bad
    check = bad[fault.step]
    assert check["status"] == fault.status
    assert fault.says in check["seen"]
    assert fault.mend in check["mend"]
    assert found["ok"] == (fault.status == "warning")


def test_without_a_fault_none_is_named_and_the_lab_is_as_it_was(lab: Lab) -> None:
    trial = Trial(lab)
    try:
        found = trial.doctor()
    finally:
        trial.remove()
    bad = _bad(found)
    assert set(bad) == NEVER_STARTED, bad
    assert {check["status"] for check in bad.values()} == {"warning"}


def test_no_two_faults_of_the_catalogue_are_the_same() -> None:
    assert len({fault.name for fault in CATALOGUE}) == len({fault.plant for fault in CATALOGUE}) >= 30
