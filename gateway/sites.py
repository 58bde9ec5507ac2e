"""The site configs that the gateway trusts: the files in its own directory."""

import logging
from collections.abc import Collection
from pathlib import Path

from gateway.errors import ConfigError
from gateway.siteconfig import SiteConfig
from gateway.sitemerge import Source, merge

log = logging.getLogger(__name__)

#: Bytes that a site config may have.
MAX_SIZE = 256 * 1024


def load_site(path: Path) -> SiteConfig:
    """Return the site config in a file, without what is said elsewhere.

    Raises:
        ConfigError: One line for each fault, ``file:line: where: what``.
    """
    return merge(read_source(path))


def read_source(path: Path) -> Source:
    """Return the text of a file, and its name.

    Raises:
        ConfigError: It cannot be read, is too large or not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_SIZE:
            raise ConfigError(f"{path}:1: larger than {MAX_SIZE // 1024} kB")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}:1: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8") from None
    return text, str(path)


def read_sites(directory: Path) -> tuple[dict[str, tuple[SiteConfig, Path]], list[str]]:
    """Return the site configs that can be read, by the cluster's name, with their files; and the faults.

    Args:
        directory: All ``*.yaml`` in it are site configs.
    """
    found: dict[str, tuple[SiteConfig, Path]] = {}
    faults: list[str] = []
    for path in sorted(directory.glob("*.yaml")):
        try:
            site = load_site(path)
        except ConfigError as error:
            faults.append(str(error))
            continue
        if site.name in found:
            faults.append(f"{path}:1: name: {found[site.name][1]} is called {site.name} already")
        else:
            found[site.name] = site, path
    if not found and not faults:
        faults.append(f"{directory}: there is no site config (*.yaml) in this directory")
    return found, faults


def load_sites(directory: Path) -> dict[str, SiteConfig]:
    """Return the site configs of all ``*.yaml`` files in a directory, by the cluster's name.

    Raises:
        ConfigError: A file is faulty, two have the same name, or there is none; all faults at once.
    """
    found, faults = read_sites(directory)
    if faults:
        raise ConfigError("\n".join(faults))
    return {name: site for name, (site, _) in found.items()}


def faults_together(sites: Collection[SiteConfig]) -> list[str]:
    """Return why one gateway cannot serve these clusters; of one alone, and of the systemd units, nothing."""
    try:
        if len(sites) > 1:
            check_together(sites, managed=False)
    except ConfigError as error:
        return [str(error)]
    return []


def check_together(sites: Collection[SiteConfig], *, managed: bool) -> None:
    """Check that one gateway can serve these clusters, and warn of one whose jobs can read its keys.

    Args:
        sites: All its clusters.
        managed: Whether the hub is a confined unit of a service manager.

    Raises:
        ConfigError: It cannot; one sentence says what to do.
    """
    for site in sites:
        if site.login.transport == "local" and managed:
            raise ConfigError(
                f"{site.name}: transport: local starts programs that the systemd units do not let run: run "
                'this gateway without the units, see "Without systemd" in docs/install.rst'
            )
        if site.login.transport != "local" or site.login.act_as != "service":
            continue
        if len(sites) > 1:
            others = ", ".join(sorted(other.name for other in sites if other is not site))
            raise ConfigError(
                f"{site.name}: with transport: local and act_as: service every user's job is the gateway's "
                f"own account and can read its keys, those of {others} too: give {site.name} a gateway of "
                "its own, or, with a scheduler that knows the users, set act_as: sudo"
            )
        log.warning(
            "%s: transport: local with act_as: service: every user's job is the gateway's own account, and "
            "can read the gateway's keys and all that other users have: only for people who trust each other",
            site.name,
        )
