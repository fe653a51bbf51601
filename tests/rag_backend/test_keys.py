"""What an entry of API_KEYS means."""

from __future__ import annotations

import pytest

from rag_backend.keys import ANYBODY, KeyRing, parse


def test_a_plain_key_may_do_everything() -> None:
    caller = KeyRing(["sesame"]).caller(b"sesame")
    assert caller is not None
    assert not caller.bound
    assert caller.may("write", "laws")


@pytest.mark.parametrize("key", ["c2VzYW1l==", "a=", "a+b/c:d", "with space"])
def test_signs_that_keys_are_made_of(key: str) -> None:
    assert parse([key]) == [(key, None)]


def test_a_bound_key() -> None:
    caller = KeyRing(["k==laws:read + Sổ tay:write"]).caller(b"k=")
    assert caller is not None
    assert caller.may("read", "laws", "vs_1")
    assert not caller.may("write", "laws", "vs_1")
    assert caller.may("read", "vs_2", "Sổ tay"), "writing includes reading"
    assert caller.may("write", "vs_2", "Sổ tay")
    assert not caller.may("read", "default")
    assert caller.stores() == {"laws", "Sổ tay"}


def test_every_store() -> None:
    caller = KeyRing(["k=*:read+drafts:write"]).caller(b"k")
    assert caller is not None
    assert caller.bound
    assert caller.stores() is None
    assert caller.may("read", "anything")
    assert not caller.may("write", "anything")
    assert caller.may("write", "drafts")


def test_whose_key_it_is() -> None:
    ring = KeyRing(["a", "b=laws:read", "c"])
    found = [ring.caller(sent) for sent in (b"a", b"b", b"c")]
    assert None not in found
    assert len({caller.id for caller in found if caller}) == 3
    assert [ring.caller(sent) for sent in (b"", b"d", b"b=laws:read", b"a\xff")] == [None] * 4
    assert not KeyRing()
    assert ANYBODY.may("write", "laws")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("secret=laws", "something else"),
        ("secret=laws:raed", "something else"),
        ("secret=laws:read+", "something else"),
        ("secret=:read", "something else"),
        ("secret=laws:READ", "something else"),
        ("secret=laws:read+laws:write", "twice"),
        ("=laws:read", "none of these"),
        ("secret=laws:read=", "none of these"),
        ("===", "no key"),
        ("first", "repeats the key of 1"),
        ("first=laws:read", "repeats the key of 1"),
        ("khoá-secret", "ASCII"),
        ("khoá-secret=laws:read", "ASCII"),
    ],
)
def test_what_is_malformed(entry: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse(["first", entry])
    assert "entry 2" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_rights_are_told_without_keys() -> None:
    told = list(KeyRing(["sesame", "open=laws:read+b:write"]).described())
    assert told == ["all rights", "laws:read+b:write"]
