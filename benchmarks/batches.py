"""A whole batch through the OpenAI SDK on `aqueduct up`, from create to completed: the `batches` scenario.

A backend that answers at once shows what a line costs; one that takes 200 ms a call, with 32 slots, shows whether the
slots stay busy. Every custom_id must come back once; memory is the most that was seen of each process.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import openai
import psutil
import yaml

from benchmarks.processes import BenchmarkError, Child, fetch, free_port, wait_for
from benchmarks.report import Table
from benchmarks.runner import Runner
from shared.tokens import hash_token, new_token

AT_ONCE, SLOW = "at-once", "slow"
SLOW_SECONDS: Final = 0.2
SLOTS: Final = 32
POLL_SECONDS: Final = 0.2
LONGEST_SECONDS: Final = 300
MIB: Final = 1 << 20


@dataclass(slots=True)
class Memory:
    """The most that each process of `up` held at once, by its name, while the block ran."""

    peaks: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def watched(self, pid: int) -> Iterator[None]:
        """Look twice a second."""
        over = threading.Event()
        thread = threading.Thread(target=self._look, args=(psutil.Process(pid), over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _look(self, up: psutil.Process, over: threading.Event) -> None:
        while not over.wait(0.5):
            for process in up.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    name = _name(process.cmdline())
                    self.peaks[name] = max(self.peaks.get(name, 0), process.memory_info().rss)


def _name(command: list[str]) -> str:
    if any("redis-server" in part for part in command):
        return "redis"
    for name in ("api", "worker", "flower"):
        if name in command:
            return name
    return "other"


def batches(run: Runner) -> dict[str, Any]:
    """Lines a second, busy slots, and memory, with small lines and with 200 MB of them."""
    run.stack.stop_gateway()
    quick = run.quick
    plans = [
        ("answered at once", AT_ONCE, 5_000 if quick else 50_000, 0),
        (f"{SLOW_SECONDS * 1000:.0f} ms, {SLOTS} slots", SLOW, 1_600 if quick else 6_400, 0),
    ]
    if not quick:
        plans.append(("200 MB of input", AT_ONCE, 50_000, 3_900))
    data: dict[str, Any] = {}
    table = Table("A batch on `aqueduct up`", ["backend", "lines", "lines/s", "slots busy", "redis MiB", "most MiB"])
    with _up(run) as (client, up):
        for name, model, count, padding in plans:
            data[name] = row = _batch(run, client, up, model, count, padding)
            peaks = row["peaks"]
            most = max((size for part, size in peaks.items() if part != "redis"), default=0)
            table.add(name, count, row["rate"], row["busy"], peaks.get("redis", 0) / MIB, most / MIB)
    table.print()
    run.stack.start_gateway()
    return data


@contextmanager
def _up(run: Runner) -> Iterator[tuple[openai.OpenAI, Child]]:
    """Start all of it as somebody would who has a backend."""
    token, port = new_token(), free_port()
    config = run.stack.folder / "batches.yaml"
    config.write_text(yaml.safe_dump(_settings(run, token)))
    arguments = ("up", "--config", config, "--port", str(port))
    up = Child.python("aqueduct", *arguments, log_file=run.stack.folder / "up.log")
    try:
        wait_for([up], f"http://127.0.0.1:{port}/readyz", seconds=60)
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=token, timeout=120) as client:
            yield client, up
    finally:
        up.stop(timeout_seconds=30)


def _settings(run: Runner, token: str) -> dict[str, Any]:
    url = f"http://127.0.0.1:{run.stack.backend_port}/v1"
    slow = f"bench?delay_seconds={SLOW_SECONDS}"
    return {
        "data_dir": str(run.stack.folder / f"up-{secrets.token_hex(4)}"),
        "flower": {"port": free_port()},
        "models": {
            AT_ONCE: {"concurrency": 64, "backends": [{"url": url, "model": "bench"}]},
            SLOW: {"concurrency": SLOTS, "batch_reserve": 0, "backends": [{"url": url, "model": slow}]},
        },
        "tokens": [{"name": "bench", "sha256": hash_token(token)}],
    }


def _batch(run: Runner, client: openai.OpenAI, up: Child, model: str, count: int, padding: int) -> dict[str, Any]:
    path = run.stack.folder / "input.jsonl"
    _write_input(path, model, count, padding)
    memory = Memory()
    with memory.watched(up.pid):
        file = client.files.create(file=path, purpose="batch")
        _stats(run, clear=True)
        began = time.monotonic()
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        while batch.status not in {"completed", "failed", "expired", "cancelled"}:
            if time.monotonic() - began > LONGEST_SECONDS:
                raise BenchmarkError(f"a batch of {count} lines took more than {LONGEST_SECONDS} s: {batch}")
            time.sleep(POLL_SECONDS)
            batch = client.batches.retrieve(batch.id)
        seconds = time.monotonic() - began
        stats = _stats(run)
        _check_output(client, batch, count)
    path.unlink()
    span = stats["last_at"] - stats["first_at"]
    return {
        "target": "aqueduct",
        "lines": count,
        "seconds": seconds,
        "rate": count / seconds,
        "calls": stats["requests"],
        "busy": stats["busy_seconds"] / span / SLOTS if model == SLOW else None,
        "peaks": memory.peaks,
    }


def _write_input(path: Path, model: str, count: int, padding: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            content = f"line {number} " + "x" * padding
            body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 16}
            line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def _stats(run: Runner, *, clear: bool = False) -> Mapping[str, Any]:
    status, body = fetch(f"http://127.0.0.1:{run.stack.backend_port}/stats{'?clear' if clear else ''}")
    if status != 200:
        raise BenchmarkError("the backend ended")
    found: Mapping[str, Any] = json.loads(body)
    return found


def _check_output(client: openai.OpenAI, batch: Any, count: int) -> None:
    if batch.status != "completed" or batch.output_file_id is None:
        raise BenchmarkError(f"the batch ended as {batch.status}: {batch.errors}")
    with client.files.with_streaming_response.content(batch.output_file_id) as answer:
        ids = [json.loads(line)["custom_id"] for line in answer.iter_lines() if line]
    if len(ids) != count or len(set(ids)) != count:
        raise BenchmarkError(f"{count} lines, {len(ids)} results of {len(set(ids))} custom_ids")
