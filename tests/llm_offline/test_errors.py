"""What is told of a library's errors."""

from __future__ import annotations

import pytest

from llm_offline.errors import first_line


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("\n no compiler\nat line 7"), "no compiler"),
        (AssertionError(), "AssertionError"),
        (MemoryError(" \n"), "MemoryError"),
    ],
)
def test_the_first_line_of_an_error_is_never_empty(error: Exception, told: str) -> None:
    assert first_line(error) == told


def test_another_word_for_an_error_that_says_nothing() -> None:
    assert first_line(KeyError(), "no reason given") == "no reason given"
    assert first_line(OSError("a disk"), "no reason given") == "a disk"
