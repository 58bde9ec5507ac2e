"""The lab's certificates and keys, made with openssl and ssh-keygen."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

_CONFIG = Path(__file__).with_name("files") / "openssl.cnf"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")


def make_authority(directory: Path) -> None:
    """Make the lab's own certificate authority: ``ca.pem`` and ``ca.key`` in ``directory``."""
    _openssl(
        *("req", "-x509", *_NEW_KEY, "-config", str(_CONFIG), "-extensions", "ca", "-subj", "/CN=Lab CA"),
        *("-keyout", str(directory / "ca.key"), "-out", str(directory / "ca.pem")),
    )


def issue(directory: Path, name: str, alternatives: Sequence[str]) -> tuple[Path, Path]:
    """Issue a server certificate and return the paths of its certificate and key.

    Args:
        directory: Where the authority is and the files go.
        name: The files' name, and the subject.
        alternatives: Subject alternative names as openssl(1) writes them: ``DNS:…``, ``IP:…``.
    """
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    _openssl(
        *(
            "req",
            "-x509",
            *_NEW_KEY,
            "-config",
            str(_CONFIG),
            "-extensions",
            "server",
            "-subj",
            f"/CN={name}",
        ),
        *("-addext", f"subjectAltName={','.join(alternatives)}"),
        *("-CA", str(directory / "ca.pem"), "-CAkey", str(directory / "ca.key")),
        *("-keyout", str(key), "-out", str(certificate)),
    )
    return certificate, key


def make_ssh_key(path: Path, comment: str) -> str:
    """Make an Ed25519 key at ``path`` (in place of an older one); return its public line."""
    for old in (path, path.with_name(f"{path.name}.pub")):
        old.unlink(missing_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=30)
