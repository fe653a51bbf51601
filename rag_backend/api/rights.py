"""What the key of a request may do: the rule of every route is among its parameters.

`Readable` and `Writable` are the vector store in the path, `Asking` is for routes that look at the
caller themselves, and `administrative` for what concerns the whole backend. What a key may not read
does not exist for it (404); what it may read and not change is a 403 that names the right.
"""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import Depends, Request

from rag_backend.api.parts import Backend
from rag_backend.errors import MissingRight, NotFound
from rag_backend.keys import Caller, Right
from rag_backend.knowledge.library import DEFAULT_STORE
from rag_backend.knowledge.models import Reach, Store

CALLER = "rag_backend.caller"
"""Where the guard leaves the caller, in the scope."""


async def calling(request: Request) -> Caller:
    """Whose key came with the request."""
    return cast(Caller, request.scope[CALLER])


Asking = Annotated[Caller, Depends(calling)]


async def administrative(caller: Asking) -> None:
    """Only for keys that are bound to no stores."""
    if caller.bound:
        raise MissingRight(
            "This key is bound to vector stores; what concerns the whole backend needs one with "
            "all rights."
        )


async def readable(vector_store_id: str, backend: Backend, caller: Asking) -> Store:
    """The vector store in the path, by id or by name; 404 where there is none to read."""
    return reached(await backend.library.store(vector_store_id), vector_store_id, caller)


async def writable(vector_store_id: str, backend: Backend, caller: Asking) -> Store:
    """The same, for changing what is in it."""
    store = await readable(vector_store_id, backend, caller)
    if not caller.may("write", store.name, store.id):
        raise lacking("write", store.name, caller)
    return store


Readable = Annotated[Store, Depends(readable)]
Writable = Annotated[Store, Depends(writable)]


def reached(store: Store, asked: str, caller: Caller) -> Store:
    """The store, if this key may read it; `asked` is what it was asked by.

    Raises:
        NotFound: With the same words as where there is no such store.
        MissingRight: It is the default store, which everybody knows of.
    """
    if caller.may("read", store.name, store.id):
        return store
    if asked == DEFAULT_STORE:
        raise lacking("read", DEFAULT_STORE, caller)
    raise NotFound(f"No such vector store: {asked}", param="vector_store_id")


def lacking(right: Right, store: str, caller: Caller) -> MissingRight:
    """A right on a store whose name is no secret to the caller; says what its own key may do."""
    held = ", ".join(f"{name}:{may}" for name, may in (caller.grants or {}).items())
    return MissingRight(
        f"This key lacks the right `{right}` on the vector store '{store}'; it has {held}."
    )


def reach_of(caller: Caller) -> Reach | None:
    """What of the catalog the key may see; None: everything."""
    return Reach(caller.stores(), caller.id) if caller.bound else None


def caller_in(scope: Any) -> Caller:
    """For what stands before the routes."""
    return cast(Caller, scope[CALLER])
