"""Whether questions can be answered: what each dependency was last seen to do, and since when.

Looks are made in the background, never by who asks. A dependency that has just served a request is
not looked at: traffic is the better witness.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from rag_backend.errors import RAGError
from rag_backend.metrics import Metrics

LIMIT = 5.0
"""Seconds that a dependency has to answer a look."""
_SOON = 2.0
"""Seconds after which one that does not work is looked at again."""

State = Literal["ok", "failing", "unknown"]
Overall = Literal["ready", "degraded", "unready"]

log = logging.getLogger(__name__)


class Failing(Exception):
    """What a look raises: one sentence that says what is wrong."""


class Alone(Failing):
    """Nobody stands in for it while this lasts, whoever else is in its group."""


class Coming(Failing):
    """Nothing is wrong: it is still being loaded. Its first arrival is no recovery."""


@dataclass(slots=True)
class Dependency:
    """Something that a request may need.

    Attributes:
        look: Asks it something that costs nothing; returns a detail, raises Failing or RAGError.
        group: Of a group any one is enough; None: it stands alone.
        essential: Without it (or without any of its group) questions are not answered.
        served: When it last served a request, by `time.monotonic`; None: never, or unknown.
        alone: Whether its group does not help, as it is now.
        missed: Whether something went wrong since it was last well, or since the start: only then
            its return is news.
    """

    name: str
    look: Callable[[], Awaitable[str]]
    essential: bool = True
    group: str | None = None
    served: Callable[[], float | None] = lambda: None
    state: State = "unknown"
    detail: str = "not looked at yet"
    since: float = field(default_factory=time.time)
    checked: float | None = None
    missed: bool = False
    task: asyncio.Task[str] | None = None
    alone: bool = False

    def shown(self) -> dict[str, Any]:
        """For JSON; times in ISO 8601."""
        return {
            "name": self.name,
            "state": self.state,
            "since": _iso(self.since),
            "checked": None if self.checked is None else _iso(self.checked),
            "needed": self.essential,
            "detail": self.detail,
        }


class Readiness:
    """Looks at every dependency once an interval."""

    def __init__(
        self,
        metrics: Metrics,
        interval: float,
        limit: float = LIMIT,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Times in seconds."""
        self._metrics = metrics
        self._interval = interval
        self._limit = limit
        self._pause = pause
        self._dependencies: tuple[Dependency, ...] = ()
        self._also: Callable[[], Awaitable[None]] | None = None
        self._loop: asyncio.Task[None] | None = None

    def watch(
        self,
        dependencies: Sequence[Dependency],
        also: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """What to look at; `also` is done at each round, such as counting what changes slowly."""
        self._dependencies = tuple(dependencies)
        self._also = also

    def start(self) -> None:
        """Begin; call once, in the event loop."""
        self._loop = asyncio.create_task(self._run(), name="readiness")

    async def stop(self) -> None:
        """Look no more; a look that hangs is left behind."""
        tasks: list[asyncio.Task[Any]] = [d.task for d in self._dependencies if d.task is not None]
        if self._loop is not None:
            tasks.append(self._loop)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def report(self) -> dict[str, Any]:
        """`{"status", "missing", "dependencies"}`; costs microseconds.

        `missing` names what keeps questions from being answered, or what does so less well.
        """
        status = self.status
        wrong = [d for d in self._dependencies if d.state != "ok"]
        if status == "unready":
            wrong = [d for d in wrong if self._is_fatal(d)]
        missing = [{"name": d.name, "since": _iso(d.since), "reason": d.detail} for d in wrong]
        shown = [d.shown() for d in self._dependencies]
        return {"status": status, "missing": missing, "dependencies": shown}

    @property
    def status(self) -> Overall:
        """`unready` where a question cannot be answered, `degraded` where something else fails."""
        if any(self._is_fatal(d) for d in self._dependencies):
            return "unready"
        return "ready" if all(d.state == "ok" for d in self._dependencies) else "degraded"

    async def look(self) -> None:
        """One round, all at the same time; never longer than the limit."""
        await self._look_at_each(self._dependencies)

    async def _look_at_each(self, those: Sequence[Dependency]) -> None:
        await asyncio.gather(*(self._look_at(d) for d in those))
        self._metrics.ready.set(self.status != "unready")

    def _is_fatal(self, one: Dependency) -> bool:
        if not one.essential or one.state == "ok":
            return False
        grouped = one.group and not one.alone
        others = [d for d in self._dependencies if grouped and d.group == one.group]
        return not any(d.state == "ok" for d in others)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
                if self._also is not None:
                    await self._also()
            except RAGError as error:
                log.warning("not counted this time: %s", error)
            except Exception:
                log.exception("a look at the dependencies failed; the next one comes")
            await self._rest()

    async def _rest(self) -> None:
        """Until the next round; what does not work is looked at again every few seconds, so that a
        start, or the end of an outage, is known at once."""
        left = self._interval
        while left > 0:
            wrong = [d for d in self._dependencies if d.state != "ok"]
            wait = min(left, _SOON) if wrong else left
            await self._pause(wait)
            left -= wait
            if left > 0:
                await self._look_at_each(wrong)

    async def _look_at(self, one: Dependency) -> None:
        served = one.served()
        if served is not None and time.monotonic() - served < self._interval:
            self._found(one, "ok", "has just served a request")
            return
        if one.task is None or one.task.done():
            one.task = asyncio.ensure_future(one.look())
        # Not cancelled when it takes too long: a thread could not be, and more would follow it.
        await asyncio.wait((one.task,), timeout=self._limit)
        if not one.task.done():
            # While everything else starts too, this alone says little.
            self._found(one, "failing", f"did not answer within {self._limit:g} s", coming=True)
        elif not one.task.cancelled():
            state, detail, error = _outcome(one.task, one.name)
            one.alone = isinstance(error, Alone)
            self._found(one, state, detail, coming=isinstance(error, Coming))

    def _found(self, one: Dependency, state: State, detail: str, *, coming: bool = False) -> None:
        before, one.state, one.detail = one.state, state, detail
        missed = one.missed
        one.missed = state != "ok" and (missed or before == "ok" or not coming)
        one.checked = time.time()
        self._metrics.dependency_up.labels(one.name).set(state == "ok")
        if state == before:
            return
        if before == "ok":
            self._metrics.outages.labels(one.name).inc()
            log.warning("%s fails: %s", one.name, detail)
        elif state == "ok" and missed:
            log.warning("%s is well again", one.name)
        one.since = one.checked


def _outcome(look: asyncio.Task[str], name: str) -> tuple[State, str, Exception | None]:
    """State, detail, and what the look has raised."""
    try:
        return "ok", look.result(), None
    except (Failing, RAGError) as error:
        return "failing", str(error), error
    except Exception as error:
        log.exception("looking at %s failed", name)
        return "failing", f"could not be looked at ({type(error).__name__})", error


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
