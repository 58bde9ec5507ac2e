"""The demonstration's jobs and HAProxy: ended with it, or by the next one if it was killed."""

from __future__ import annotations

import asyncio

from gateway.dataplane.haproxy import HAProxy, HAProxySettings, Listener
from gateway.demo.place import Place
from gateway.errors import ConfigError
from gateway.localqueue import PROGRAM
from gateway.localqueue.processes import alive
from gateway.localqueue.spool import PATIENCE, Spool

#: Seconds that all jobs together may take to end: their supervisors kill what does not end by itself.
_WITHIN = 20.0


async def end_jobs(place: Place) -> int:
    """End all jobs of the queue and return how many there were; none of their processes is left.

    Raises:
        ConfigError: They do not end.
    """
    if not (place.queue / "spool").is_dir():
        return 0
    spool = Spool(place.queue)
    with spool.locked(PATIENCE):
        running = [job for job in spool.refresh() if alive(job.supervisor)]
    for job in running:
        cancel = await asyncio.create_subprocess_exec(
            place.queue / "bin" / PROGRAM, "cancel", str(job.id), stdin=asyncio.subprocess.DEVNULL
        )
        await cancel.wait()
    end = asyncio.get_running_loop().time() + _WITHIN
    while any(alive(job.supervisor) for job in running):
        if asyncio.get_running_loop().time() > end:
            raise ConfigError(f"Jobs of the demo in {place.root} do not end: look for their processes.")
        await asyncio.sleep(0.05)
    return len(running)


async def end_proxy(place: Place) -> None:
    """End the HAProxy that a killed demonstration has left behind; it is no error if there is none.

    Raises:
        DataPlaneError: It does not end.
    """
    settings = HAProxySettings(place.run / "haproxy", place.run / "hub.sock", (Listener("127.0.0.1:1"),))
    if settings.directory.is_dir():
        await HAProxy(settings).stop()
