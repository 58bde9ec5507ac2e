"""Which cipher the tunnels prefer: the one that this machine is fastest with. The login node has a say too.

ssh takes the first one of its list that sshd offers. With AES in hardware, which nearly all servers have,
AES-GCM carries twice what ChaCha20 does. Measured where this was written, in MB/s: AES-GCM 13,000 and
ChaCha20 3,700; with AES in hardware masked from OpenSSL, 300 and 1,100.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

_AES = "aes128-gcm@openssh.com,aes256-gcm@openssh.com"
_CHACHA = "chacha20-poly1305@openssh.com"
#: The order on a machine with AES in hardware.
CIPHERS = f"{_AES},{_CHACHA}"
#: ssh's own ChaCha20 is about as much slower than the library's that is measured.
_OWN_CHACHA = 2.0
_SAMPLE, _TIMES = bytes(256 * 1024), 4


def fastest_first() -> str:
    """Return the ciphers in the order to prefer them in, measured in about 5 ms. It blocks."""
    aes, chacha = AESGCM(bytes(16)), ChaCha20Poly1305(bytes(32))
    nonce = os.urandom(12)
    slow, quick = (_seconds(partial(each.encrypt, nonce, _SAMPLE, None)) for each in (aes, chacha))
    return f"{_CHACHA},{_AES}" if slow > _OWN_CHACHA * quick else CIPHERS


def _seconds(work: Callable[[], object]) -> float:
    """Return the shortest of a few runs: the others were disturbed."""
    taken = []
    for _ in range(_TIMES):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return min(taken)
