"""The engine: a thread that steps the model for all requests that run, and tells what they say.

Admission, waiting and counters belong to the event loop; the thread owns the sequences, the
scheduler and the KV cache. They talk through an inbox and through each job's events. A request
that is given up leaves before the next step.

A step changes nothing before it has succeeded. One that fails is computed again in halves, until
it is known whose fault it is: that request fails, the others' tokens stand. After anything but a
lack of memory the engine begins anew: an empty KV cache, and those that are left wait again.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import secrets
import threading
import time
from collections import Counter

from llm_offline.engine.interface import EngineStatus, GenerationRequest
from llm_offline.engine.job import Job, Mark, Outbox
from llm_offline.engine.kv_cache import BlockPool
from llm_offline.engine.measuring import Measures
from llm_offline.engine.scheduler import Scheduler
from llm_offline.engine.sequence import Drawn, Sequence
from llm_offline.engine.speculation import NewGuesser, PromptLookup
from llm_offline.engine.step import Network, Row
from llm_offline.engine.text.detokenizing import Decode
from llm_offline.errors import (
    BadRequest,
    ContextExceeded,
    GenerationFailed,
    LLMOfflineError,
    OutOfMemory,
    QueueFull,
    ShuttingDown,
)

log = logging.getLogger(__name__)

_NOT_NUMBERS = (
    "the model computed values that are not numbers; if its dtype is fp16, try --dtype bf16"
)
_SEE_LOG = "the model failed on this request; the server's log says why"

PROBE = (0,)
"""A prompt that asks for nothing: whether the model still computes."""
PROBE_EVERY = 5.0
"""Seconds between two such attempts, while it does not."""


class ContinuousBatching:
    """At most `max_batch` requests are computed together, at most `max_queue` more wait."""

    def __init__(
        self,
        network: Network,
        decode: Decode,
        *,
        context: int,
        max_queue: int,
        max_batch: int,
        share_prefixes: bool = True,
        guesser: NewGuesser | None = PromptLookup,
    ) -> None:
        """Starts the thread.

        Args:
            network: The model; its KV cache is this engine's alone.
            decode: Token ids to text.
            context: Tokens of prompt and answer together.
            max_queue: Requests that may wait.
            max_batch: Requests that may run.
            share_prefixes: Do not compute again what the KV cache still holds.
            guesser: Of tokens to come, or None.
        """
        self._network = network
        self._decode = decode
        self._share_prefixes = share_prefixes
        self._context = min(context, network.blocks * network.block_size)
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._guesser = guesser
        self._scheduler = self._new_scheduler()
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._outbox = Outbox()
        self._jobs: dict[Sequence, Job] = {}
        self._open: set[Job] = set()
        self._finished: Counter[str] = Counter(stop=0, length=0, cancelled=0, error=0)
        self._generation_tokens = 0
        self._seconds_each = 1.0
        self._stopped = False
        self._measures = Measures()
        self._failing: str | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    # On the event loop

    def generate(self, request: GenerationRequest, places: int = 1) -> Job:
        """See `interface.Engine.generate`."""
        if self._stopped:
            raise ShuttingDown("the server is shutting down")
        if not request.prompt:
            raise BadRequest("the prompt is empty: there is nothing to go on from", param="prompt")
        room = self._context - len(request.prompt)
        if room < 1:
            raise ContextExceeded(len(request.prompt), self._context)
        _check_tokens(request, self._network.vocabulary)
        ahead, most = len(self._open), self._max_batch + self._max_queue
        if places > most:
            raise BadRequest(
                f"{places} texts are more than this server takes at once: ask for {most} at most",
                param="n",
            )
        # What finds a free place does not wait.
        if ahead + places > most:
            raise QueueFull(
                f"{ahead} requests are being answered or wait, and no more may "
                f"(--max-batch {self._max_batch}, --max-queue {self._max_queue}): "
                "try again later",
                retry_after=min(60, self._seconds_each),
            )
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        job = Job(request, limit, self._ended, asyncio.get_running_loop())
        self._open.add(job)
        self._inbox.put(job)
        return job

    def status(self) -> EngineStatus:
        """See `interface.Engine.status`."""
        measures, pool = self._measures, self._scheduler.pool
        return EngineStatus(
            waiting=self._count("waiting"),
            running=self._count("running"),
            queue_limit=self._max_queue,
            finished=dict(self._finished),
            prompt_tokens=measures.prompt_tokens,
            generation_tokens=self._generation_tokens + sum(job.produced for job in self._open),
            kv_cache_usage=1 - pool.available / pool.blocks,
            counters=measures.counters | {"num_preemptions": self._scheduler.preemptions},
            histograms=measures.histograms,
            failing=self._failing,
        )

    def stop(self) -> None:
        """See `interface.Engine.stop`."""
        self._stopped = True
        for job in list(self._open):
            job.fail(ShuttingDown("the server is shutting down"))
        self._inbox.put(None)

    def join(self, seconds: float) -> bool:
        """See `interface.Engine.join`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _new_scheduler(self) -> Scheduler:
        network = self._network
        pool = BlockPool(network.blocks, network.block_size, share=self._share_prefixes)
        return Scheduler(pool, most_running=self._max_batch, step_tokens=network.step_tokens)

    def _count(self, state: str) -> int:
        return sum(job.state == state for job in self._open)

    def _ended(self, job: Job, how: str) -> None:
        self._open.discard(job)
        self._finished[how] += 1
        self._generation_tokens += job.produced
        if job.started is not None:
            self._seconds_each += 0.2 * (time.monotonic() - job.started - self._seconds_each)

    # In the thread

    def _work(self) -> None:
        """Turn after turn; nothing that one request does may end it."""
        while True:
            try:
                if not self._turn():
                    return
            except Exception as error:
                # Between two steps: whose fault it is cannot be told.
                log.exception("the engine failed")
                jobs, self._jobs = self._jobs, {}
                for job in jobs.values():
                    self._outbox.post(job, GenerationFailed(_SEE_LOG))
                    self._outbox.post(job, Mark.LEFT)
                self._restart(error, [])
            # A text that the last step ended must not wait for the next request.
            self._outbox.deliver()

    def _turn(self) -> bool:
        """Let requests in and out, and compute a step; False when told to stop."""
        if not self._take_inbox():
            return False
        for sequence, job in list(self._jobs.items()):
            if job.given_up.is_set():
                self._leave(sequence)
        if self._scheduler.busy:
            self._step()
        return True

    def _take_inbox(self) -> bool:
        """Take new requests in, waiting for one when idle; False when told to stop."""
        wait = not self._scheduler.busy
        while wait or not self._inbox.empty():
            try:
                job = self._inbox.get(timeout=None if self._failing is None else PROBE_EVERY)
            except queue.Empty:
                self._probe()
                return True
            if job is None:
                return False
            wait = False
            self._take(job)
        return True

    def _take(self, job: Job) -> None:
        try:
            sequence = Sequence(
                job.request,
                limit=job.limit,
                pool=self._scheduler.pool,
                decode=self._decode,
                stop_ids=self._network.stop_ids,
                noise=secrets.randbits(64),
                guesser=self._guesser,
            )
        except Exception:
            log.exception("a request could not begin")
            self._outbox.post(job, GenerationFailed(_SEE_LOG))
            self._outbox.post(job, Mark.LEFT)
        else:
            self._jobs[sequence] = job
            self._scheduler.add(sequence)

    def _step(self) -> None:
        """Compute the next tokens; what fails takes only those with it whose fault it is."""
        rows = self._restricted(self._scheduler.plan())
        self._announce(rows)
        self._outbox.deliver()
        outcomes = self._compute(rows)
        now = time.monotonic()
        broken: Exception | None = None
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, Drawn):
                self._failing = None
                self._advance(row, outcome, now)
            elif isinstance(outcome, OutOfMemory):
                self._measures.counters["out_of_memory"] += 1
                self._fail(row.sequence, outcome)
            else:
                broken = outcome
                self._fail(row.sequence, GenerationFailed(_SEE_LOG))
        if broken is not None:
            self._restart(broken, self._scheduler.all())

    def _restricted(self, rows: list[Row]) -> list[Row]:
        """The rows, with their grammars asked what may come; without those that cannot tell."""
        kept = []
        for row in rows:
            try:
                if row.samples:
                    row.sequence.restrict(row.draft)
                kept.append(row)
            except LLMOfflineError as error:
                self._fail(row.sequence, error)
        return kept

    def _compute(self, rows: list[Row]) -> list[Drawn | Exception]:
        """What each row drew, or why it cannot be computed.

        Together they may need memory that none needs alone, and one may fail them all: the
        halves of a step that failed are computed one after the other.
        """
        if not rows:
            return []
        try:
            return [*self._network.step(rows)]
        except Exception as error:
            if len(rows) == 1:
                if not isinstance(error, OutOfMemory):
                    log.exception("a step failed")
                # Its traceback would keep the step's tensors alive, which are what ran out of
                # memory.
                error.__cause__ = error.__context__ = None
                return [error.with_traceback(None)]
            log.warning("a step of %d requests failed (%s): in parts", len(rows), _named(error))
        half = len(rows) // 2
        return self._compute(rows[:half]) + self._compute(rows[half:])

    def _restart(self, error: Exception, survivors: list[Sequence]) -> None:
        """Begin anew with an empty KV cache: nothing that a failure may have left is trusted."""
        self._measures.counters["step_failures"] += 1
        scheduler = self._new_scheduler()
        scheduler.preemptions = self._scheduler.preemptions
        for sequence in sorted(survivors, key=lambda one: one.arrival):
            sequence.move(scheduler.pool)
            scheduler.add(sequence)
        self._scheduler = scheduler
        log.warning("the engine began anew after %s", _named(error))
        self._probe()

    def _probe(self) -> None:
        """Find out whether the model still computes: some failures of a device are for good."""
        sequence = Sequence(
            GenerationRequest(PROBE),
            limit=1,
            pool=BlockPool(1, self._network.block_size, share=False),
            decode=self._decode,
            stop_ids=frozenset(),
        )
        sequence.table.reserve(1)
        try:
            # It overwrites the first block, which is nobody's: nothing was computed since the
            # failure.
            self._network.step([Row(sequence, 0, list(PROBE), 1)])
        except Exception as error:
            if self._failing is None:
                log.exception("the model computes nothing any more")
            self._failing = _named(error)
        else:
            self._failing = None

    def _announce(self, rows: list[Row]) -> None:
        for row in rows:
            if not row.sequence.announced:
                row.sequence.announced = True
                self._outbox.post(self._jobs[row.sequence], Mark.STARTED)

    def _advance(self, row: Row, drawn: Drawn, now: float) -> None:
        """Give a row's tokens to its sequence, and its text to its client."""
        sequence = row.sequence
        try:
            if not drawn.is_number:
                raise GenerationFailed(_NOT_NUMBERS)
            if not row.samples:
                sequence.read(len(row.tokens))
                return
            before = sequence.produced
            delta = sequence.accept(len(row.tokens), drawn, row.draft)
        except LLMOfflineError as error:
            self._fail(sequence, error)
        except Exception:
            log.exception("a request failed")
            self._fail(sequence, GenerationFailed(_SEE_LOG))
        else:
            job = self._jobs[sequence]
            came, guessed = delta.completion_tokens - before, len(row.draft)
            self._measures.tokens(sequence, came, guessed=guessed, asked_at=job.created, now=now)
            self._outbox.post(job, delta)
            if delta.finish_reason is not None:
                self._leave(sequence)

    def _fail(self, sequence: Sequence, error: LLMOfflineError) -> None:
        log.warning("a request failed: %s", error)
        self._outbox.post(self._jobs[sequence], error)
        self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        self._outbox.post(self._jobs.pop(sequence), Mark.LEFT)


def _check_tokens(request: GenerationRequest, vocabulary: int) -> None:
    """Raise `BadRequest` for ids that the model has no place for, wherever they come from.

    On a GPU one such id ends all computing of the process. A tokenizer may have been given more
    tokens than its model; what is drawn, guessed or forced by a grammar is always a logit's.
    """
    if (unknown := max(request.prompt)) >= vocabulary:
        raise BadRequest(
            f"the prompt has the token {unknown}, and the model knows 0 to {vocabulary - 1}: "
            "leave out what the tokenizer knows and the model does not",
            param="prompt",
        )
    for token, _ in request.sampling.logit_bias:
        if token >= vocabulary:
            raise BadRequest(
                f"logit_bias: {token} is not one of the model's token ids, 0 to {vocabulary - 1}",
                param="logit_bias",
            )


def _named(error: Exception) -> str:
    """The kind of error: its words may hold what a request said."""
    return type(error).__name__
