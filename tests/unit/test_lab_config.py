"""What the lab tells its gateway is what the gateway understands."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.config import load_settings
from gateway.siteconfig import parse_site_config
from tests.lab.gateway import SITE_CONFIG, gateway_config

SLURM_CONF = Path(__file__).parents[1] / "lab/files/slurm.conf"


def test_the_labs_site_config_is_valid() -> None:
    site = parse_site_config(SITE_CONFIG, "lab.yaml")
    assert [application.name for application in site.applications if application.requeue] == ["lab-requeue"]


def test_the_site_config_states_the_limits_of_slurm_conf() -> None:
    site = parse_site_config(SITE_CONFIG, "lab.yaml")
    found = re.findall(r"^PartitionName=(\w+) .*MaxTime=(\d+):(\d+):00", SLURM_CONF.read_text(), re.MULTILINE)
    limits = {name: int(hours) * 60 + int(minutes) for name, hours, minutes in found}
    assert limits == {partition.name: partition.max_walltime for partition in site.partitions}


def test_the_gateways_config_holds_only_settings_that_exist(tmp_path: Path) -> None:
    path = tmp_path / "gateway_config.py"
    path.write_text(gateway_config(8443))
    settings = load_settings(path)
    assert settings.gateway.bind == ["127.0.0.1:8443"]
    assert settings.ldap.servers == ["ldap.lab:636"]
