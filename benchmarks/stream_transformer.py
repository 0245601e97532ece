"""Prints what a chat chunk costs in its transformer, in µs: one a read, 64 a read, and in whole short streams."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from shared.jobs import JobSpec
from shared.kinds import KINDS

_CHOICE = {"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}
_ENVELOPE = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1700000000}
_VLLM: dict[str, Any] = {**_ENVELOPE, "model": "meta-llama/Llama-3.1-8B-Instruct", "choices": [_CHOICE]}
STYLES = {
    "vllm": _VLLM,
    "vllm, usage null": {**_VLLM, "usage": None},
    "vllm, not ascii": {**_VLLM, "choices": [{**_CHOICE, "delta": {"content": " wörd"}}]},
    "llama.cpp": {
        "choices": [{"finish_reason": None, "index": 0, "delta": {"content": " word"}}],
        "created": 1700000000,
        "id": "chatcmpl-0123456789abcdef",
        "model": "llama.gguf",
        "object": "chat.completion.chunk",
    },
    "usage in each chunk": {**_VLLM, "usage": {"prompt_tokens": 9, "completion_tokens": 1}},
    "created anew each second": {**_VLLM, "created": 1700000001},
}
ROUNDS = 20


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def _first(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "created": 1700000000, "choices": [{**_CHOICE, "delta": {"role": "assistant", "content": ""}}]}


def measure(reads: Sequence[bytes], chunks: int) -> float:
    """Return µs a chunk for streams of these reads, the best of some short runs."""
    best = float("inf")
    spec = JobSpec(stream=True, created=1, public_model="llama-3.1-8b")
    open_stream = KINDS[spec.kind].stream
    assert open_stream is not None
    times = max(1, 6_400 // chunks)
    for _ in range(ROUNDS):
        start = time.process_time()
        for number in range(times):
            subject = open_stream(spec, f"{number:032x}")
            for data in reads:
                subject.feed(data)
            subject.finish()
        best = min(best, (time.process_time() - start) / (times * chunks))
    return best * 1e6


def main() -> None:
    """Measure and print."""
    stop = _event({**_VLLM, "choices": [{**_CHOICE, "delta": {}, "finish_reason": "stop"}]}) + b"data: [DONE]\n\n"
    print(f"{'µs a chunk':26} {'alone':>7} {'by 64':>7} {'9, paced':>9} {'64, at once':>12}")
    for name, value in STYLES.items():
        first, event = _event(_first(value)), _event(value)
        columns = (
            measure([first, *[event] * 3_198, stop], 3_200),
            measure([first + event * 63, *[event * 64] * 49, stop], 3_201),
            measure([first, *[event] * 7, stop], 9),
            measure([first + event * 62 + stop], 64),
        )
        print(f"{name:26} {columns[0]:7.2f} {columns[1]:7.2f} {columns[2]:9.2f} {columns[3]:12.2f}")


if __name__ == "__main__":
    main()
