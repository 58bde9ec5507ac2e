"""Takes the doctor's steps: each as soon as those it needs are ok, all others at the same time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from gateway.doctor.check import Check, Finding, Status, not_ok, skipped
from gateway.errors import GatewayError

Result = TypeVar("Result")

#: Seconds that a step may take.
WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to look at.

    Args:
        name: Unique, in words; it begins every line about it.
        examine: Looks.
        needs: The names of steps before it, without which it makes no sense.
        within: Seconds after which it is given up.
        after: The names of steps before it that are waited for, however they go.
        timed: Whether it is always said how long it took.
    """

    name: str
    examine: Callable[[], Awaitable[Finding]]
    needs: tuple[str, ...] = ()
    within: float = WITHIN
    after: tuple[str, ...] = ()
    timed: bool = False


async def walk(steps: Sequence[Step], report: Callable[[Check], None]) -> list[Check]:
    """Take all steps and return what they found, in their order.

    Args:
        steps: Each stands after those that it needs.
        report: Called with each in turn, as soon as it and those before it have been taken.
    """
    checks = []
    async with asyncio.TaskGroup() as group:
        tasks: dict[str, asyncio.Task[Check]] = {}
        for step in steps:
            needed, before = ([tasks[name] for name in names] for names in (step.needs, step.after))
            tasks[step.name] = group.create_task(_take(step, needed, before))
        for task in tasks.values():
            checks.append(await task)
            report(checks[-1])
    return checks


async def _take(
    step: Step, needed: Sequence[asyncio.Task[Check]], before: Sequence[asyncio.Task[Check]]
) -> Check:
    await asyncio.gather(*before)
    for task in needed:
        check = await task
        if not check.finding.status.bears:
            state = "is not ok" if check.finding.status is Status.NOT_OK else "was skipped"
            return Check(step.name, skipped(f"because {check.name} {state}"))
    begun = time.monotonic()
    try:
        async with asyncio.timeout(step.within):
            finding = await step.examine()
    except TimeoutError:
        finding = not_ok(
            f"no answer within {step.within:g} s", "See what hangs there, and run gateway doctor again."
        )
    except GatewayError as error:
        finding = not_ok(str(error), "Mend what it names, and run gateway doctor again.")
    except Exception as error:
        words = f"the step itself failed: {type(error).__name__}: {error}"
        finding = not_ok(words, "Report it, with what gateway --version says.")
    return Check(step.name, finding, time.monotonic() - begun, step.timed)


async def in_thread(call: Callable[[], Result]) -> Result:
    """Return what a blocking call returns. If it hangs, nobody has to wait for its thread, nor does the end.

    Raises:
        Exception: Whatever it raises.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # there is a result where there is no error

    def work() -> None:
        result, failure = None, None
        try:
            result = call()
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the loop has gone
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, name="doctor", daemon=True).start()
    return await future
