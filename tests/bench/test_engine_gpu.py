"""What `bench.engine gpu` makes of ways that fail, on a machine where all of them do."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from bench import engine_gpu
from bench.engine_gpu import Row, table


def test_a_table_of_what_there_is() -> None:
    whole, part, none = Row("none", "compiled"), Row("none", "generate"), Row("int4", "compiled")
    whole.learn({"how": "CUDA graphs", "gib": 6.0, "seconds": 20.0})
    assert whole.learn({"batch": "1", "rate": 400.0, "share": 0.71}) == (
        "batch 1: 400.0 tokens/s, 0.71 of the bandwidth's limit"
    )
    whole.learn({"batch": "8", "rate": 2000.0})
    part.learn({"batch": "1", "rate": 40.0})
    assert part.learn({"batch": "8", "why": "no memory"}) == "batch 8: not measured: no memory"
    none.learn({"batch": "all", "why": "the kernel\ndoes not compile"})
    lines = table([whole, part, none], (1, 8)).splitlines()
    assert lines[2] == "| bf16, graphs compiled | 6.00 | 400 (× 10.00) | 2000 | 0.71 |"
    assert lines[3] == "| bf16, generate |  | 40 (× 1.00) | not measured | not measured |"
    assert lines[4] == "| int4, graphs compiled | not measured: the kernel does not compile |"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="here they would not fail")
def test_every_way_fails_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_gpu, "rows", lambda: [Row("none", "off"), Row("none", "generate")])
    out = tmp_path / "gpu.json"
    engine_gpu.measure(tmp_path, Namespace(rehearse=False, minutes=5, out=out))
    said = capsys.readouterr().out
    assert "The bandwidth was not measured" in said
    assert said.count("| not measured: ") == 2
    found = json.loads(out.read_text("utf-8"))
    assert [set(row["reasons"]) for row in found["rows"]] == [{"all"}, {"all"}]
    engine_gpu.measure(tmp_path, Namespace(rehearse=False, minutes=0, out=None))
    assert "no time was left" in capsys.readouterr().out
