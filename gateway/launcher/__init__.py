"""The launcher: the one program that a site installs on a login node (``act_as: sudo``, ``certificate``).

``gateway-launcher`` beside this file is that program; ``wire`` is its standard input and output. ``relay.py``
goes to the nodes with the jobs of applications that have no TLS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import IntEnum
from importlib.resources import files

from gateway.errors import ConfigError
from gateway.siteconfig import Application


class LauncherStatus(IntEnum):
    """The launcher's exit statuses, after sysexits.h where it has them."""

    DONE = 0
    USAGE = 64
    CUT_SHORT = 65
    NO_PROGRAM = 69
    STATE_DIR = 73
    BUSY = 75
    REFUSED = 77


#: What a scheduler's programs have in their environment. The launcher sets it itself, but for a submit.
ENVIRONMENT = {"TZ": "UTC", "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s", "SGE_SINGLE_LINE": "1"}
_PROGRAMS = re.compile(r"^PROGRAMS='([^']*)'$", re.M)
_PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)


def launcher_text(programs: Iterable[str] = ()) -> str:
    """Return the program, as it is to be installed (owned by root, mode 0755).

    Args:
        programs: What else it may run: the programs of a scheduler from another package.

    Raises:
        ConfigError: One of them has a name that no program has.
    """
    text = files(__name__).joinpath("gateway-launcher").read_text(encoding="ascii")
    found = _PROGRAMS.search(text)
    assert found is not None  # noqa: S101  its own file
    listed = found[1].split()
    more = [program for program in dict.fromkeys(programs) if program not in listed]
    for program in more:
        if not _PROGRAM.fullmatch(program):
            raise ConfigError(
                f"the scheduler's program {program!r} cannot be one: it needs a plain file name"
            )
    return f"{text[: found.start(1)]} {' '.join([*listed, *more])} {text[found.end(1) :]}"


def relay_files(application: Application | None) -> dict[str, bytes]:
    """Return what an application's job needs beside its script and its secrets: the relay, or nothing."""
    if application is None or application.tls != "relay":
        return {}
    return {"relay.py": files(__name__).joinpath("relay.py").read_bytes()}


def sudoers_text(account: str, group: str, launcher: str) -> str:
    """Return what a site puts into /etc/sudoers.d (owned by root, mode 0440).

    Args:
        account: The service account with which the gateway logs in.
        group: The Unix group of the people it may act for; never ALL, and without ``account`` in it.
        launcher: The absolute path of the installed launcher.
    """
    return (
        f"# {account} may run this one program, as a member of the group {group} only.\n"
        f"Defaults:{account} !requiretty, !lecture, env_reset\n"
        # The launcher's standard input carries keys: sudo must not log it.
        f"Defaults!{launcher} !log_input, !log_output\n"
        f"{account} ALL=(%{group}) NOPASSWD: {launcher}\n"
    )


def sshd_text(group: str, addresses: Sequence[str], launcher: str, ca_file: str) -> str:
    """Return what a site puts into sshd's configuration, for ``act_as: certificate``.

    All of it is inside a Match block: the CA is trusted for these people from these addresses, for this one
    program, and for nobody else (sshd_config(5), OpenSSH 8.2 or later).

    Args:
        group: The Unix group of the people whom the gateway may act for; without system and service accounts.
        addresses: The gateway's IP addresses, or networks in CIDR form, as the login node sees them.
        launcher: The absolute path of the installed launcher.
        ca_file: The absolute path of the file with what ``gateway ca show`` prints.
    """
    where, address = ",".join(addresses), addresses[0].partition("/")[0]
    return f"""\
# The gateway logs in as members of the group {group}, from {where} only, with certificates of its own CA,
# and runs one program. Their other ways to log in change for connections from there alone; root, and who is
# not in the group, are not concerned. Put it at the end of /etc/ssh/sshd_config, then try:
#     sshd -t
#     sshd -T -C user=MEMBER,host=gateway,addr={address} | grep -e trustedusercakeys -e forcecommand
#     sshd -T -C user=root,host=gateway,addr={address} | grep -e trustedusercakeys -e forcecommand
# The first shows the file and the program, the second "none" twice. Then reload sshd. A certificate is for
# the one user whom it names, unless AuthorizedPrincipalsFile or -Command, set elsewhere, says otherwise.
# Failed logins of a few must not lock out the gateway, and with it all. With OpenSSH 9.8 or later, above the
# first Match of the file:
#     PerSourcePenaltyExemptList {where}
# With fail2ban, add to ignoreip in jail.local:
#     {" ".join(addresses)}
Match User *,!root Group {group} Address {where}
    TrustedUserCAKeys {ca_file}
    AuthenticationMethods publickey
    ForceCommand {launcher} --ssh
    PermitTTY no
    PermitUserRC no
    PermitTunnel no
    AllowTcpForwarding no
    AllowStreamLocalForwarding no
    AllowAgentForwarding no
    X11Forwarding no
Match all
"""
