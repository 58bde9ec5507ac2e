"""The tagged token with which a job says where its application listens: ``gw1:RUN:RESTART:HOST:PORT``.

The job attaches it to itself in the scheduler, where everybody can read it and other text may stand beside
it. It holds no secret and is believed only as far as it agrees with what the gateway and the scheduler know.
"""

import re

from gateway.model import Endpoint

_TOKEN = re.compile(
    r"(?<!\S)gw1:([0-9a-f]{16}):([0-9]{1,6}):([A-Za-z0-9][A-Za-z0-9._-]{0,252}):([0-9]{1,5})(?!\S)", re.ASCII
)


def token(run: str, restarts: int, host: str, port: int) -> str:
    """Return the token of an endpoint.

    Args:
        run: The server's run nonce, 16 hexadecimal digits.
        restarts: How often the job was requeued.
        host: The node's name as the scheduler knows it.
        port: Where the application listens.

    Raises:
        ValueError: The parts do not make a token that can be read back.
    """
    text = f"gw1:{run}:{restarts}:{host}:{port}"
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"not an endpoint: {text!r}")
    return text


def parse(
    comment: str, *, run: str, restarts: int, host: str | None, ports: tuple[int, int]
) -> Endpoint | None:
    """Return the endpoint that a job's comment names, if it is this run's and could be true.

    Only the last token counts: a job replaces its older ones, and appends.

    Args:
        comment: The text attached to the job.
        run: The run nonce of the server's present start.
        restarts: The scheduler's own count of requeues.
        host: The scheduler's own name of the node that runs the job's script. It is what the endpoint gets;
            the token's host only has to agree with it up to the first dot, in any case.
        ports: The lowest and the highest port that the site allows.
    """
    tokens = _TOKEN.findall(comment)
    if not tokens or not host:
        return None
    said_run, said_restarts, said_host, said_port = tokens[-1]
    agrees = said_run == run and int(said_restarts) == restarts and _short(said_host) == _short(host)
    if not agrees or not ports[0] <= int(said_port) <= ports[1]:
        return None
    return Endpoint(run, restarts, host, int(said_port))


def _short(host: str) -> str:
    return host.partition(".")[0].lower()
