"""What ssh says when it does not connect, in words that say what to do."""

from __future__ import annotations

import re

from gateway.dataplane.tunnel import TunnelSettings
from gateway.errors import (
    DataPlaneError,
    GatewayError,
    HostKeyRefused,
    LoginNodeRefused,
    LoginNodeUnreachable,
)
from gateway.siteconfig import Jump

_CHANGED_KEY = re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key .* has changed", re.IGNORECASE)
_UNKNOWN_KEY = re.compile(r"host key is known for|Host key verification failed|authenticity of host")
_BAD_CERTIFICATE = re.compile(r"Certificate invalid: (.+)")
_REVOKED = re.compile(r"is marked as revoked|REVOKED HOST KEY")
_REFUSED = re.compile(r"Permission denied \(|Too many authentication failures")
_NOT_FORWARDED = re.compile(r"administratively prohibited")
_BROKEN_SETUP = re.compile(r"Bad configuration option|Bad SSH2|command-line: line|No user exists for uid")
#: What pam_slurm_adopt says, and sshd where it says nothing of its account modules' reasons.
_NO_JOB = re.compile(r"you have no active jobs|pam_slurm")
#: Nobody took the connection: whoever tries again soon is in nobody's way.
_NOBODY = re.compile(r"Connection refused|No route to host|Network is unreachable|Connection timed out")


def is_explained(said: str) -> bool:
    """Return whether ssh's words tell more than that there is no connection."""
    return any(words.search(said) for words in (_CHANGED_KEY, _UNKNOWN_KEY, _REFUSED, _BROKEN_SETUP))


def is_absence(error: GatewayError) -> bool:
    """Return whether nobody was there: no sshd has been asked for anything."""
    return isinstance(error, LoginNodeUnreachable) and bool(_NOBODY.search(str(error)))


def node_refusal(said: str, node: str, way: TunnelSettings) -> GatewayError:
    """Return the error for what ssh said when it did not connect to a compute node, as a user."""
    known_hosts, port = way.known_hosts, way.port
    name = node if port == 22 else f"[{node}]:{port}"
    words = (
        " / ".join(line.strip() for line in said.split("\n") if line.strip())[-500:] or "ssh gave no reason"
    )
    if any(pattern.search(said) for pattern in (_CHANGED_KEY, _BAD_CERTIFICATE, _REVOKED, _UNKNOWN_KEY)):
        return HostKeyRefused(
            f"The host key of the compute node {name} is not in {known_hosts}, or is another there: {words}. "
            f"Compare it with what its administrators say (on the login node: ssh-keyscan -p {port} {node}), "
            "and add it, or a line @cert-authority for all nodes"
        )
    if _NO_JOB.search(said):
        return LoginNodeRefused(f"{name} does not let {way.user} in: {words}: it has no job of theirs")
    if _REFUSED.search(said):
        return LoginNodeRefused(
            f"{name} does not let {way.user} in with the gateway's certificate: {words}. "
            "sshd there needs TrustedUserCAKeys with what gateway ca show prints"
        )
    if _BROKEN_SETUP.search(said):
        return DataPlaneError(f"{way.program}: {words}")
    return LoginNodeUnreachable(f"{name}, by way of the login node: {words}")


def translated(said: str, host: str, way: TunnelSettings | Jump, program: str) -> GatewayError:
    """Return the error for what ssh said when it did not connect (the words of OpenSSH 7.4 to 10)."""
    known_hosts, port = way.known_hosts, way.port
    name = host if port == 22 else f"[{host}]:{port}"
    add = f"ssh-keyscan -p {port} {host} >> {known_hosts}"
    if _CHANGED_KEY.search(said):
        fingerprint = re.search(r"SHA256:\S+?(?=\.?\s|\.?$)", said)
        return HostKeyRefused(
            f"The host key of {name} is not the one in {known_hosts}: it shows "
            f"{fingerprint[0] if fingerprint else 'another'}. If its administrators confirm the change: "
            f"ssh-keygen -f {known_hosts} -R '{name}' && {add}"
        )
    if _BAD_CERTIFICATE.search(said) or _REVOKED.search(said):
        revoked = f"its key, or its CA's, is marked @revoked in {known_hosts}"
        why = found[1] if (found := _BAD_CERTIFICATE.search(said)) else revoked
        return HostKeyRefused(f"{name} shows a host key or certificate that is not good: {why}")
    if _UNKNOWN_KEY.search(said):
        return HostKeyRefused(
            f"The host key of {name} is not in {known_hosts}. Add it with: {add} "
            f"and compare with the login node's administrators: ssh-keygen -lf {known_hosts}"
        )
    words = " / ".join(said.split("\n")).strip(" /")[-500:] or "ssh gave no reason"
    if _REFUSED.search(said):
        return LoginNodeRefused(f"{name} does not let {way.user} in with {way.key}: {words}")
    if _NOT_FORWARDED.search(said):
        return LoginNodeRefused(f"{name} does not lead {way.user} on to the login node: {words}")
    if _BROKEN_SETUP.search(said):
        return DataPlaneError(f"{program}: {words}")
    return LoginNodeUnreachable(f"{name}: {words}")
