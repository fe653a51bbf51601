"""How well the router's score sorts questions that people labelled simple or hard, and its cost.

    python -m bench.routing

The questions are tests/rag_backend/llm/hardness.tsv, written by hand in English and Vietnamese:
`spoken` as people ask; `against-length` long simple and short hard ones; `held-out` written after
the score was finished, which no cue was chosen for. Printed is the area under the ROC curve (how
often a hard question scores above a simple one; 0.5 is chance), and beside it that of the
question's length alone. Only the question is scored here, without passages.
"""

from __future__ import annotations

import statistics
import time

from rag_backend.llm.provider import ChatRequest, Evidence, Grounding
from rag_backend.llm.scoring import score
from rag_backend.text import query_terms
from tests.rag_backend.llm.test_scoring import Question, auc, judged, questions

PASSAGE = (
    "Employees have twelve days of annual leave. Nhân viên được nghỉ phép mười hai ngày mỗi năm. "
) * 12


def main() -> None:
    """Print both tables."""
    listed = questions()
    print(f"{'questions':24}{'n':>5}{'score':>8}{'length':>8}")
    for language in ("en", "vi"):
        ours = [q for q in listed if q.language == language]
        for kind in dict.fromkeys(q.kind for q in ours):
            _print(f"{language} {kind}", [q for q in ours if q.kind == kind])
        _print(f"{language} all", ours)
    print(f"one score, 8 passages of {len(PASSAGE)} characters: {_milliseconds():.2f} ms")


def _print(name: str, listed: list[Question]) -> None:
    ours = auc((judged(q.text).score, q.label) for q in listed)
    length = auc((float(len(q.text)), q.label) for q in listed)
    print(f"{name:24}{len(listed):>5}{ours:>8.3f}{length:>8.3f}")


def _milliseconds() -> float:
    question = "How many days of annual leave do new employees have, and why?"
    passages = tuple(Evidence(n, "handbook.md", PASSAGE, 1.0) for n in range(8))
    grounding = Grounding(question, "en", passages, dict.fromkeys(query_terms(question), 1.0))
    request = ChatRequest(({"role": "user", "content": question},), grounding=grounding)
    seconds = []
    for _ in range(50):
        began = time.perf_counter()
        score(request, 8192)
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


if __name__ == "__main__":
    main()
