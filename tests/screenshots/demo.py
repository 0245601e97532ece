"""A gateway as a team has it on a busy afternoon: models, tokens, groups, load, a batch, and what was used before."""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

import httpx

from shared import keys
from shared.metrics.history import POINTS, Point, read_point
from tests.support.batches import chat_line
from tests.support.chat import chat_body
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import System

OPERATOR: Final = "ada"
HELD: Final = "codestral-22b"
"""The model that an operator holds."""
STEP_SECONDS: Final = 0.5
"""Between two points of the history while there is load; `stretch_history` makes an hour of them."""
SMOOTHED: Final = 8
"""Points that share what was counted in them: processes tell of it only every few seconds."""
_MODELS: Final = {
    "llama-3.3-70b": model("tokens=60&token_seconds=0.03&first_token_seconds=0.4", concurrency=5, aliases=["large"]),
    "qwen3-32b": model("tokens=40&token_seconds=0.02&first_token_seconds=0.2", concurrency=8),
    "mistral-small": model("tokens=25&token_seconds=0.02", concurrency=8, aliases=["small"]),
    "phi-4": model("tokens=20&token_seconds=0.01", concurrency=16),
    "codestral-22b": model("tokens=30&token_seconds=0.02", concurrency=4, max_wait_seconds=600),
    "gpt-oss-20b": {
        "concurrency": 4,
        "max_attempts": 1,
        "backends": [{"model": "demo?tokens=30&token_seconds=0.03"}] * 3 + [{"model": "demo?status=500"}],
    },
}
_TOKENS: Final[dict[str, dict[str, Any]]] = {
    OPERATOR: {"role": "operator", "group": "platform"},
    "chat-ui": {"group": "team-a", "requests_per_minute": 3000, "tokens_per_day": 40_000_000},
    "notebooks": {"group": "team-a", "tokens_per_minute": 400_000, "concurrent_jobs": 40},
    "search": {"group": "team-b", "tokens_per_month": 900_000_000},
    "ci-bot": {"lane": "flex", "models": ["mistral-small"], "tokens_per_day": 2_000_000},
    "wallboard": {"role": "viewer", "models": []},
}
_GROUPS: Final = [
    {"name": "team-a", "tokens_per_day": 60_000_000, "weight": 2}, {"name": "team-b"}, {"name": "platform"},
]  # fmt: skip
_CALLERS: Final = (("chat-ui", "llama-3.3-70b", 7), ("notebooks", "llama-3.3-70b", 5), ("search", "qwen3-32b", 9),
                   ("notebooks", "qwen3-32b", 3), ("ci-bot", "mistral-small", 4), ("chat-ui", "mistral-small", 3),
                   ("search", "gpt-oss-20b", 2), ("notebooks", "phi-4", 3),
                   ("chat-ui", "codestral-22b", 2))  # fmt: skip
"""Who asks what, by how many at once when it is busiest."""
_QUESTIONS: Final = (
    "Summarise this ticket.",
    "Translate into French.",
    "Write a test for this.",
    "Why is the sky blue?",
)


def demo_system(folder: Path, redis_url: str, backend_url: str) -> System:
    """Return the gateway, not yet started."""
    settings = {
        "storage": {"url": (folder / "store").as_uri()}, "groups": _GROUPS, "batches": {"line_attempts": 1},
        "testing": {"history_seconds": STEP_SECONDS},
    }  # fmt: skip
    return System(
        folder, redis_url=redis_url, backend_url=backend_url, models=_MODELS, tokens=_TOKENS, settings=settings,
        workers=((), ()),
    )  # fmt: skip


class Traffic:
    """Load that swells and ebbs, beside the caller, until the end of the `with`."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    async def _run(self) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for place, (token, name, count) in enumerate(_CALLERS):
                for at in range(count):
                    group.create_task(self._ask(token, name, at / count, place, began))

    async def _ask(self, token: str, name: str, share: float, place: int, began: float) -> None:
        """Ask again and again while the tide is above this caller's share."""
        dice = random.Random(f"{token} {name} {share}")
        async with self._system.async_client(self._system.tokens[token], timeout=120) as client:
            while not self._over.is_set():
                tide = 0.62 + 0.38 * math.sin((time.monotonic() - began) / 14 + place)
                if share > tide:
                    await asyncio.sleep(0.5)
                    continue
                body = chat_body(name, dice.choice(_QUESTIONS), stream=dice.random() < 0.7)
                try:
                    answer = await client.post("/v1/chat/completions", json=body)
                    await asyncio.sleep(dice.uniform(0, 0.6) if answer.status_code == 200 else 1)
                except httpx.HTTPError:
                    await asyncio.sleep(1)


def fill_week(system: System) -> None:
    """Make a token, hold a model, and have a batch go on for a while."""
    with system.client(system.tokens[OPERATOR]) as client:
        client.post("/admin/v1/tokens", json={"name": "hackathon", "group": "team-b", "requests_per_minute": 60})
        client.post(f"/admin/v1/models/{HELD}/pause").raise_for_status()
    with system.client(system.tokens["search"]) as client:
        lines = [chat_line(f"page-{at}", f"Describe page {at}.", "qwen3-32b") for at in range(3000)]
        content = "\n".join(map(json.dumps, lines)).encode()
        file = client.post("/v1/files", files={"file": ("pages.jsonl", content)}, data={"purpose": "batch"}).json()
        asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        client.post("/v1/batches", json=asked).raise_for_status()


def fill_usage(store: Path) -> None:
    """Put into the file store what was used in the last sixty days: less at night and on Sundays."""
    dice = random.Random(7)
    today = datetime.now(UTC).date()
    for back in range(1, 61):
        day = today - timedelta(days=back)
        first = (day - date(1970, 1, 1)).days * 24
        hours = {str(first + hour): _used(day, hour, dice) for hour in range(24)}
        folder = store / "usage" / day.isoformat()
        folder.mkdir(parents=True)
        (folder / "demo.json").write_text(json.dumps({"hours": hours}))


def _used(day: date, hour: int, dice: random.Random) -> dict[str, list[int]]:
    tide = (0.35 if day.weekday() > 4 else 1) * (0.25 + math.exp(-(((hour - 14) / 4.5) ** 2)))
    out = {}
    for token, name, count in _CALLERS:
        group = _TOKENS[token].get("group", "-")
        requests = int(60 * count * tide * dice.uniform(0.7, 1.3))
        failed, prompt, completion = (
            requests // 90,
            requests * dice.randint(300, 900),
            requests * dice.randint(120, 400),
        )
        counts = [requests, failed, failed // 2, 0, prompt, prompt // 4, completion, 0, 0, 0]
        waited, ran = requests * dice.randint(100, 2500), requests * dice.randint(1500, 4000)
        out[f"{token} {group} {name} {_TOKENS[token].get('lane', 'default')} chat.completions"] = [
            *counts, waited, ran, ran
        ]  # fmt: skip
    return out


def stretch_history(system: System, redis: RedisServer, seconds: float) -> None:
    """Make an hour of the points of so many seconds: later by so much more, and with as much more counted.

    The API begins anew, as it reads each point once.
    """
    assert system.api is not None
    system.api.stop()
    _stretch(redis, seconds)
    system.rewrite(settings={"testing": {"history_seconds": 15}})
    system.start_api()
    system.wait_ready()


def _stretch(redis: RedisServer, seconds: float) -> None:
    now, factor = time.time(), 3600 / max(60.0, seconds)
    with redis.client() as client:
        for name in _MODELS:
            points = [read_point(text) for text in client.lrange(keys.history(name), 0, POINTS)]
            known = [point for point in points if point is not None]
            while known and not known[-1].running and name != HELD:  # what was seen while the API ended
                known.pop()
            last = known[-1].at
            stretched = [
                replace(
                    point, at=now - (last - point.at) * factor, seconds=point.seconds * factor,
                    new={key: round(number * factor) for key, number in point.new.items()},
                )
                for point in known
            ]  # fmt: skip
            stretched = [
                one for at in range(0, len(stretched), SMOOTHED) for one in _even(stretched[at : at + SMOOTHED])
            ]
            client.delete(keys.history(name))
            client.rpush(keys.history(name), *(point.written() for point in stretched))


def _even(points: list[Point]) -> list[Point]:
    """Give each of these points the same part of what was counted in all."""
    counted = Counter[str]()
    for point in points:
        counted.update(point.new)
    return [replace(one, new={key: round(number / len(points)) for key, number in counted.items()}) for one in points]
