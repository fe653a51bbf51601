"""What the way through the backend costs, beside the straight way and LiteLLM's proxy.

    python -m bench.gateway            # about five minutes
    python -m bench.gateway --quick    # about one and a half

A model server that costs nothing (`bench.upstream`: short answers after 50 ms; streams of 128
tokens, one every 20 ms) is asked straight, through our backend without documents and without the
cache, and through LiteLLM's proxy, by the same clients, one contender after the other at each
level. Each contender is one process on the first core; the model server and the load generator are
on the last one. LiteLLM runs in an environment of its own, bench/peers/gateway/.venv, which is made
here when it is absent. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil

from bench.environments import PEERS, python_of
from bench.loading import Load, Seen
from bench.upstream import PLAIN
from tests.e2e.backend import backend
from tests.servers import free_port

ROOT = Path(__file__).resolve().parent.parent
LEVELS = (1, 10, 50, 200)
STREAM = 128
PATIENCE = 180
STRAIGHT, OURS, LITELLM = "straight", "rag_backend", "LiteLLM"
_SUSPECT = ("Warning", "Unclosed", "Traceback", "ERROR", "never retrieved")


@dataclass(frozen=True, slots=True)
class Contender:
    """Who answers where; `process` is None for the model server itself."""

    name: str
    url: str
    process: psutil.Process | None = None

    def cpu(self) -> float:
        """Seconds of CPU so far, the children's included."""
        if self.process is None:
            return 0.0
        family = [self.process, *self.process.children(recursive=True)]
        return sum(sum(one.cpu_times()[:2]) for one in family)

    def memory(self) -> float:
        """MiB that it holds, the children's included."""
        if self.process is None:
            return 0.0
        family = [self.process, *self.process.children(recursive=True)]
        return float(sum(one.memory_info().rss for one in family) / 2**20)


@dataclass(slots=True)
class Row:
    """One contender at one level, over all rounds."""

    seen: list[Seen] = field(default_factory=list)
    cpu: float = 0.0

    def quantile(self, what: str, share: float) -> float:
        """In milliseconds."""
        values = sorted(value for seen in self.seen for value in getattr(seen, what))
        return 1000 * values[min(len(values) - 1, int(share * len(values)))] if values else 0.0

    @property
    def answers(self) -> int:
        """Answers of all rounds."""
        return sum(seen.answers for seen in self.seen)

    @property
    def failed(self) -> int:
        """Those that were none."""
        return sum(seen.failed for seen in self.seen)

    @property
    def per_second(self) -> float:
        """Answers a second; the median of the rounds."""
        return statistics.median(seen.answers / seen.wall for seen in self.seen)

    @property
    def merged(self) -> float:
        """Share of the tokens that came together with an earlier one, in per cent."""
        return (
            100 * sum(s.merged for s in self.seen) / max(1, sum(len(s.delays) for s in self.seen))
        )


Rows = dict[tuple[str, int], Row]


# Processes


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started within runs there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def started(command: Sequence[str], folder: Path, **more: str) -> Iterator[psutil.Process]:
    """A process with its output in `folder`; stopped at the end."""
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | more, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def until_answering(url: str, process: psutil.Process, log: Path) -> None:
    """Wait for a 200."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.status() != psutil.STATUS_ZOMBIE:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{url} does not answer:\n{log.read_text('utf-8')[-3000:]}")


@contextmanager
def model_server(folder: Path) -> Iterator[Contender]:
    """The upstream, on the last core."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "bench.upstream", str(port)]
    with ExitStack() as stack:
        with on_core(max(os.sched_getaffinity(0))):
            process = stack.enter_context(started(command, folder, PYTHONPATH=str(ROOT)))
        until_answering(f"{url}/v1/models", process, folder / "log")
        yield Contender(STRAIGHT, url)


@contextmanager
def ours(folder: Path, upstream: str, cache: str = "none") -> Iterator[Contender]:
    """Our backend without documents: every question goes to the model as it is."""
    with ExitStack() as stack:
        with on_core(min(os.sched_getaffinity(0))):
            running = stack.enter_context(
                backend(
                    folder,
                    CACHE_URL=cache,
                    LLM_PROVIDER="local",
                    LOCAL_LLM_API_URL=upstream,
                    LOCAL_LLM_MODEL="bench",
                    PYTHONWARNINGS="always::ResourceWarning,default",
                )
            )
        deadline = time.monotonic() + PATIENCE
        while "Ready:" not in running.output() and time.monotonic() < deadline:
            time.sleep(0.1)  # its encoder is still being loaded
        yield Contender(OURS, running.url, psutil.Process(running.process.pid))


@contextmanager
def litellm(folder: Path, upstream: str) -> Iterator[Contender]:
    """LiteLLM's proxy as its documentation starts it, with one worker."""
    python = python_of(PEERS / "gateway")
    folder.mkdir()
    row = {"model": "openai/bench", "api_base": f"{upstream}/v1", "api_key": "sk-bench"}
    config = {
        "model_list": [{"model_name": "bench", "litellm_params": row}],
        "litellm_settings": {"telemetry": False},
    }
    (folder / "config.yaml").write_text(json.dumps(config), "utf-8")  # JSON is YAML
    url = f"http://127.0.0.1:{(port := free_port())}"
    start = "from litellm import run_server; run_server()"
    flags = ["--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    command = [str(python), "-c", start, *flags, "--num_workers", "1"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    quiet["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # as ours: no keys
    with ExitStack() as stack:
        with on_core(min(os.sched_getaffinity(0))):
            process = stack.enter_context(started(command, folder, **quiet, LITELLM_LOG="ERROR"))
        until_answering(f"{url}/health/liveliness", process, folder / "log")
        yield Contender(LITELLM, url, process)


# Measuring


def generate(load: Load) -> Seen:
    """One load, by a process on the last core."""
    with on_core(max(os.sched_getaffinity(0))):
        done = subprocess.run(
            [sys.executable, "-m", "bench.loading"],
            input=json.dumps(asdict(load)),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"the load generator failed:\n{done.stderr[-3000:]}")
    return Seen(**json.loads(done.stdout))


def run(contender: Contender, load: Load, row: Row) -> None:
    """One load, its CPU time with it."""
    before = contender.cpu()
    seen = generate(load)
    row.cpu += contender.cpu() - before
    row.seen.append(seen)
    for error in seen.errors:
        print(f"{contender.name}: {error}", file=sys.stderr)


def measure(contenders: Sequence[Contender], *, stream: bool, rounds: int, seconds: float) -> Rows:
    """All levels; at each of them the contenders one after the other."""
    rows: Rows = {}
    for clients in LEVELS:
        for _ in range(rounds):
            for one in contenders:
                load = Load(
                    one.url,
                    clients,
                    STREAM if stream else PLAIN,
                    stream=stream,
                    seconds=seconds,
                    stagger=1.0 if stream else 0.1,
                )
                run(one, load, rows.setdefault((one.name, clients), Row()))
    return rows


def memory(contender: Contender, requests: int, clients: int = 50) -> list[float]:
    """MiB after a fifth of the requests, and after all of them."""
    held = []
    for share in (0.2, 0.4, 0.4):
        generate(Load(contender.url, clients, PLAIN, requests=int(share * requests)))
        held.append(contender.memory())
    return held


# Report


def plain_table(rows: Rows, names: Sequence[str]) -> Iterator[str]:
    """Added latency is what it takes longer than straight, quantile by quantile."""
    yield (
        "| plain | clients | p50 ms | p99 ms | added p50 | added p99 | requests/s | CPU ms "
        "| failed |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for clients in LEVELS:
        straight = rows[STRAIGHT, clients]
        for name in names:
            row = rows[name, clients]
            p50, p99 = row.quantile("took", 0.5), row.quantile("took", 0.99)
            yield (
                f"| {name} | {clients} | {p50:.1f} | {p99:.1f} "
                f"| {p50 - straight.quantile('took', 0.5):.1f} "
                f"| {p99 - straight.quantile('took', 0.99):.1f} | {row.per_second:.0f} "
                f"| {1000 * row.cpu / max(1, row.answers):.2f} | {row.failed} |"
            )


def stream_table(rows: Rows, names: Sequence[str]) -> Iterator[str]:
    """Delays are of single tokens, from the model server to the client."""
    yield (
        "| streamed | clients | first token p50 ms | p99 | added p50 | token delay p50 ms | p99 "
        "| merged % | CPU ms | failed |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for clients in LEVELS:
        straight = rows[STRAIGHT, clients]
        for name in names:
            row = rows[name, clients]
            first = row.quantile("first", 0.5)
            yield (
                f"| {name} | {clients} | {first:.1f} | {row.quantile('first', 0.99):.1f} "
                f"| {first - straight.quantile('first', 0.5):.1f} "
                f"| {row.quantile('delays', 0.5):.2f} | {row.quantile('delays', 0.99):.2f} "
                f"| {row.merged:.2f} | {1000 * row.cpu / max(1, row.answers):.1f} | {row.failed} |"
            )


def targets(plain: Rows, streamed: Rows, hits: Row, held: Sequence[float]) -> Iterator[str]:
    """What was promised, and what was seen."""

    def added(rows: Rows, name: str, clients: int, what: str) -> float:
        base = rows[STRAIGHT, clients].quantile(what, 0.5)
        return rows[name, clients].quantile(what, 0.5) - base

    yield "| target | wanted | seen |"
    yield "|---|--:|--:|"
    yield f"| plain, added p50 at 1 client, ms | ≤ 4 | {added(plain, OURS, 1, 'took'):.1f} |"
    yield f"| plain, added p50 at 10 clients, ms | ≤ 8 | {added(plain, OURS, 10, 'took'):.1f} |"
    if (LITELLM, 50) in plain:
        ratio = plain[OURS, 50].per_second / plain[LITELLM, 50].per_second
        yield f"| plain, requests/s at 50 clients, times LiteLLM's | ≥ 5 | {ratio:.1f} |"
        theirs = added(streamed, LITELLM, 50, "first")
        share = added(streamed, OURS, 50, "first") / theirs
        yield f"| streamed, added first token at 50, share of LiteLLM's | ≤ 0.20 | {share:.2f} |"
    late = streamed[OURS, 50].quantile("delays", 0.99)
    late -= streamed[STRAIGHT, 50].quantile("delays", 0.99)
    yield f"| streamed, token delay p99 at 50, ms | ≤ 20 | {late:.1f} |"
    yield f"| cache hit p50 at 10 clients, ms | < 2 | {hits.quantile('took', 0.5):.2f} |"
    growth = 100 * (held[-1] / held[0] - 1)
    yield f"| memory, growth after warm-up, % | ≤ 5 | {growth:.1f} |"


def suspects(log: str) -> list[str]:
    """Lines of a log that should not be there."""
    return [line for line in log.splitlines() if any(word in line for word in _SUSPECT)]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round, 2,000 requests")
    parser.add_argument("--without-peer", action="store_true", help="leave LiteLLM out")
    parser.add_argument("--requests", type=int, help="for the memory; 10,000 by default")
    given = parser.parse_args()
    rounds, seconds = (1, 1.5) if given.quick else (2, 3.0)
    requests = given.requests or (2_000 if given.quick else 10_000)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        with ExitStack() as stack:
            upstream = stack.enter_context(model_server(folder / "upstream"))
            own = stack.enter_context(ours(folder / "ours", upstream.url))
            contenders = [upstream, own]
            if not given.without_peer:
                contenders.append(stack.enter_context(litellm(folder / "litellm", upstream.url)))
            for one in contenders:  # warm-up
                for stream in (False, True):
                    generate(Load(one.url, 4, PLAIN, stream=stream, requests=100))
            names = [one.name for one in contenders]
            plain = measure(contenders, stream=False, rounds=rounds, seconds=seconds)
            print("\n".join(plain_table(plain, names)), flush=True)
            # Nobody asks again after 2.6 s: two streams a client, or one.
            streamed = measure(
                contenders, stream=True, rounds=1, seconds=1.0 if given.quick else 3.0
            )
            print("\n" + "\n".join(stream_table(streamed, names)), flush=True)
            held = memory(own, requests)
            with ours(folder / "cached", upstream.url, "memory://") as cached:
                generate(Load(cached.url, 1, PLAIN, requests=10))
                hits = Row([generate(Load(cached.url, 10, PLAIN, seconds=seconds))])
            print("\n" + "\n".join(targets(plain, streamed, hits, held)))
            print(f"\nMemory of our backend over {requests} requests: ", end="")
            print(" → ".join(f"{mib:.1f}" for mib in held), "MiB (after 20, 60 and 100 %)")
            for one in contenders[2:]:
                print(f"Memory of {one.name}: {one.memory():.1f} MiB")
        logs = [(folder / name / "backend.log").read_text("utf-8") for name in ("ours", "cached")]
        found = suspects("\n".join(logs))
        print("Warnings and errors in our backends' logs, till after their end:", len(found))
        print("\n".join(found), file=sys.stderr)
    print(f"Versions: {_versions(peer=not given.without_peer)}, {os.cpu_count()} cores")


def _versions(*, peer: bool) -> str:
    named = [f"{name} {version(name)}" for name in ("openai", "aiohttp", "uvicorn", "uvloop")]
    if peer:
        wanted = (PEERS / "gateway" / "requirements.txt").read_text("utf-8").splitlines()
        named += [line.replace("==", " ") for line in wanted if line.startswith("litellm==")]
    return ", ".join(named)


if __name__ == "__main__":
    main()
