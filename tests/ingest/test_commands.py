"""Opening a store that may be absent, forbidden, or made by another client meanwhile."""

from __future__ import annotations

from typing import cast

import pytest

from ingest.client import Client, NotThere, Refused, Store
from ingest.commands import open_or_create

STORE = Store("vs_1", "mine", busy=False)


class Stores:
    """A client whose store appears after so many looks; creating it is refused."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def store(self, name: str) -> Store:
        self.looks -= 1
        if self.looks >= 0:
            raise NotThere(f"No such vector store: {name}")
        return STORE

    def create_store(self, name: str) -> Store:
        raise Refused(f"This key lacks the right `write` on '{name}'.")


def test_what_may_not_be_made_is_said() -> None:
    with pytest.raises(Refused, match="lacks the right"):
        open_or_create(cast(Client, Stores(looks=2)), "mine")


def test_what_another_client_made_is_used() -> None:
    assert open_or_create(cast(Client, Stores(looks=1)), "mine") == STORE
