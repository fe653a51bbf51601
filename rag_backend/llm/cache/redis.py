"""Answers in Redis or KeyDB, shared by backends. The only module that knows the client library.

Whatever happens to the server costs at most `LIMIT` seconds now and then, and never an answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from rag_backend.errors import CacheUnavailable, StartError
from rag_backend.metrics import Metrics

PREFIX = "rag-backend:answer:1:"
"""Of every key; the number changes with the form of the values."""
LIMIT = 0.25
"""Seconds for one exchange, connecting included."""
REST = 5.0
"""Seconds for which a server that failed is left alone; then one request tries it again."""
LARGEST = 16 * 2**20
"""Bytes of a value when unpacked: what claims to be more is not ours."""
_CONNECTIONS = 32
_BATCH = 500  # keys in one round of `clear`
_MAGIC = b"RAG1"

T = TypeVar("T")
log = logging.getLogger(__name__)


class RedisBacking:
    """See Backing. Values are compressed; the server's own policy decides what it evicts."""

    def __init__(
        self,
        url: str,
        metrics: Metrics,
        *,
        ttl: float,
        limit: float = LIMIT,
        rest: float = REST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connects when first used. All times in seconds.

        Raises:
            StartError: the URL cannot be used; the message holds no password.
        """
        self._metrics = metrics
        self._ttl = max(1, round(1000 * ttl))
        self._limit = limit
        self._url = _shown(url)
        self._reading = _Circuit("read", self._url, rest, clock)
        self._writing = _Circuit("written to", self._url, rest, clock)
        self._last: float | None = None
        self._redis = Redis.from_pool(_pool(url, limit))  # which is closed with it

    async def get(self, key: str) -> bytes | None:
        """See Backing; what another program or a fault left there is a miss."""
        try:
            packed = await self._exchange(partial(self._read, key), self._reading)
        except CacheUnavailable:
            return None
        if packed is None:
            return None
        value = unpacked(key, packed)
        if value is None:
            self._metrics.cache_events.labels("garbage").inc()
        return value

    async def put(self, key: str, value: bytes) -> None:
        """See Backing."""
        if len(value) > LARGEST:
            self._metrics.cache_events.labels("too_large").inc()
            return
        if not self._reading.closed:
            return  # it is away: one more time limit would teach nothing
        packed = pack(key, value)
        try:
            store = partial(self._redis.set, PREFIX + key, packed, px=self._ttl)
            await self._exchange(store, self._writing)
        except CacheUnavailable:
            return
        self._metrics.cache_events.labels("stored").inc()

    async def clear(self) -> int:
        """See Backing. Every backend's answers go, and no other program's keys."""
        count = cursor = 0
        while True:
            cursor, keys = await self._exchange(partial(self._scan, cursor))
            if keys:
                count += int(await self._exchange(partial(self._redis.unlink, *keys)))
            if not cursor:
                return count

    async def check(self) -> None:
        """See Backing."""
        await self._exchange(self._redis.ping)
        if not self._writing.closed:
            raise CacheUnavailable(f"The answer cache at {self._url} cannot be written to.")

    def served(self) -> float | None:
        """See Backing."""
        sound = self._reading.closed and self._writing.closed
        return self._last if sound else None

    async def aclose(self) -> None:
        """See Backing."""
        await self._redis.aclose()

    async def _read(self, key: str) -> object:
        try:
            return await self._redis.get(PREFIX + key)
        except ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                return b""  # another program's list or hash: garbage like any other
            raise

    async def _scan(self, cursor: int) -> tuple[int, list[bytes | str]]:
        return await self._redis.scan(cursor, match=PREFIX + "*", count=_BATCH)

    async def _exchange(
        self, ask: Callable[[], Awaitable[T]], circuit: _Circuit | None = None
    ) -> T:
        """The server's answer.

        Raises:
            CacheUnavailable: it is left alone for now, or failed; the circuit knows.
        """
        if circuit is not None and not circuit.lets_through():
            raise CacheUnavailable(f"The answer cache at {self._url} is away.")
        try:
            # One limit over everything: waiting for a connection, connecting, the exchange.
            async with asyncio.timeout(self._limit):
                answer = await ask()
        except (RedisError, OSError, ValueError) as error:
            # TimeoutError is an OSError. The library's texts may quote what was sent.
            reason = _reason(error)
            self._metrics.cache_events.labels("error").inc()
            if circuit is not None:
                # A server that is away is away for both; one that refuses to write is still read.
                (circuit if isinstance(error, ResponseError) else self._reading).failed(reason)
            raise CacheUnavailable(
                f"The answer cache at {self._url} {reason}: check it, and CACHE_URL."
            ) from None
        except asyncio.CancelledError:
            if circuit is not None:
                circuit.tried()
            raise
        if circuit is not None:
            circuit.worked()
            self._last = time.monotonic()
        return answer


class _Circuit:
    """Leaves what failed alone for a while; then one request tries it, and the others wait."""

    def __init__(
        self,
        what: str,
        url: str,
        rest: float,
        clock: Callable[[], float],
    ) -> None:
        self._what = what
        self._url = url
        self._rest = rest
        self._clock = clock
        self._until: float | None = None

    @property
    def closed(self) -> bool:
        """Whether it worked when it was last tried."""
        return self._until is None

    def lets_through(self) -> bool:
        if self._until is None:
            return True
        if self._clock() < self._until:
            return False
        self._until = self._clock() + self._rest  # until this one is back, nobody else tries
        return True

    def tried(self) -> None:
        """The request that tried it was given up: the next one may try."""
        if self._until is not None:
            self._until = self._clock()

    def failed(self, reason: str) -> None:
        if self._until is None:
            log.warning(
                "the answer cache at %s %s: it cannot be %s, and is tried again every %.0f s; "
                "answers go on without it",
                self._url,
                reason,
                self._what,
                self._rest,
            )
        self._until = self._clock() + self._rest

    def worked(self) -> None:
        if self._until is not None:
            log.info("the answer cache at %s can be %s again", self._url, self._what)
        self._until = None


def pack(key: str, value: bytes) -> bytes:
    """A value as it lies in Redis: our mark, its key, the compressed bytes with their checksum.

    The key is in it because a connection whose reader was cancelled in the middle must never hand
    one client's answer to another.
    """
    return _MAGIC + key.encode() + zlib.compress(value, 1)


def unpacked(key: str, packed: object) -> bytes | None:
    """The value; None where the bytes are not what `pack` made for this key, whole."""
    head = _MAGIC + key.encode()
    if not isinstance(packed, bytes) or not packed.startswith(head):
        return None
    unpacking = zlib.decompressobj()
    try:
        value = unpacking.decompress(packed[len(head) :], LARGEST)
    except zlib.error:
        return None
    return value if unpacking.eof and not unpacking.unused_data else None


def _pool(url: str, limit: float) -> BlockingConnectionPool:
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=limit,
            socket_timeout=limit,
            socket_connect_timeout=limit,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # KeyDB and old servers know no other
            client_name="rag-backend",
        )
        # An option that there is not would fail every question later.
        pool.connection_class(**pool.connection_kwargs)
        return pool
    except (ValueError, TypeError, RedisError):
        raise StartError(
            f"CACHE_URL={_shown(url)} cannot be used: it should look like "
            "redis://:PASSWORD@192.168.1.20:6379/0, without options that the client does not know"
        ) from None


def _shown(url: str) -> str:
    """The URL without user name, password and options."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _reason(error: Exception) -> str:
    if "authentication required" in str(error).lower():
        return "wants a password"
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return "refuses the password"
    if isinstance(error, BusyLoadingError):
        return "is still loading its data"
    if isinstance(error, ResponseError):
        return f"refuses the command ({type(error).__name__})"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "does not answer in time"
    kind = type(error)
    return "cannot be reached" + ("" if kind is ConnectionError else f" ({kind.__name__})")
