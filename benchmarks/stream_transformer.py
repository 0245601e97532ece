"""Prints what a chunk costs in the stream transformer, in µs: one chunk a read, and 64 chunks a read."""

from __future__ import annotations

import json
import time

from shared.kinds.chat.stream import StreamTransformer

_CHOICE = {"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}
_ENVELOPE = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1700000000}
_VLLM = {**_ENVELOPE, "model": "meta-llama/Llama-3.1-8B-Instruct", "choices": [_CHOICE]}
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
    "usage in each chunk (parsed)": {**_VLLM, "usage": {"prompt_tokens": 9, "completion_tokens": 1}},
}


def measure(event: bytes, events_a_block: int, total_events: int = 6_400) -> float:
    """Return µs for each event, the best of twenty short runs."""
    best = float("inf")
    block, rounds = event * events_a_block, total_events // events_a_block
    for _ in range(20):
        subject = StreamTransformer(job_id="0" * 26, public_model="llama-3.1-8b", include_usage=False, created=1)
        subject.feed(event)
        start = time.perf_counter()
        for _ in range(rounds):
            subject.feed(block)
        best = min(best, (time.perf_counter() - start) / (rounds * events_a_block))
    return best * 1e6


def main() -> None:
    """Measure and print."""
    for name, value in STYLES.items():
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        event = f"data: {text}\n\n".encode()
        print(f"{name:30} {measure(event, 1):6.2f} µs alone   {measure(event, 64):6.2f} µs in blocks of 64")


if __name__ == "__main__":
    main()
