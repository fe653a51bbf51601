"""Work of a request that would hold up the event loop: in a thread, for as long as somebody waits.

Prompts are written, tokens counted and grammars made there. What has not begun when its client
goes away never begins, so a burst of requests that nobody waits for holds nobody up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from starlette.requests import Request

from llm_offline.api.replying import unless_gone
from llm_offline.pool import Pool

P = ParamSpec("P")
T = TypeVar("T")


def preparing_of(request: Request) -> Pool:
    """The process's threads for it."""
    pool: Pool = request.app.state.preparing
    return pool


async def aside(request: Request, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns or raises.

    Raises:
        ClientGone: Nobody waits for it any more.
        ShuttingDown: The server is.
    """
    return await unless_gone(request, preparing_of(request).run(work, *args, **kwargs))
