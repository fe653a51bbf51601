"""Stop strings across token borders."""

from __future__ import annotations

import random

import pytest

from llm_offline.engine.text.stopping import StopStrings


def _run(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    strings = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += strings.push(piece)
        if strings.hit:
            return shown, True
    return shown + strings.flush(), False


@pytest.mark.parametrize(
    ("pieces", "stops", "text", "hit"),
    [
        (["hel", "lo"], [], "hello", False),
        (["hello", " END", " more"], ["END"], "hello ", True),
        (["hello E", "N", "D more"], ["END"], "hello ", True),
        (["hello E", "N", "O"], ["END"], "hello ENO", False),
        (["hello E", "N"], ["END"], "hello EN", False),
        (["aab"], ["ab"], "a", True),
        (["a", "a", "b"], ["aab"], "", True),
        (["x\n", "\n", "y"], ["\n\n", "y"], "x", True),
        (["one two three"], ["three", "two"], "one ", True),
        (["Điều ", "5", "."], ["u 5."], "Điề", True),
    ],
)
def test_stop_strings(pieces: list[str], stops: list[str], text: str, hit: bool) -> None:
    assert _run(pieces, stops) == (text, hit)


def test_any_cut_of_a_text_gives_what_the_whole_gives() -> None:
    rng = random.Random(1)
    for _ in range(500):
        whole = "".join(rng.choices("ab", k=30))
        stops = ["".join(rng.choices("ab", k=rng.randint(1, 6))) for _ in range(3)]
        found = [(at + len(stop), at) for stop in stops if (at := whole.find(stop)) >= 0]
        expected = whole[: min(found)[1]] if found else whole
        pieces, rest = [], whole
        while rest:
            cut = rng.randint(1, 4)
            pieces.append(rest[:cut])
            rest = rest[cut:]
        assert _run(pieces, stops) == (expected, bool(found))
