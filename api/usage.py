"""Usage in OpenAI's shape: buckets of an hour or a day, grouped and filtered as its clients ask."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from shared.errors import BrokerUnavailable, CapacityError, InvalidRequest
from shared.redis import RedisRefused, RedisUnavailable
from shared.roles import is_allowed
from shared.store import StoreError
from shared.token_settings import TokenSettings
from shared.usage.counters import Counters, Key
from shared.usage.ledger import DAY_HOURS, HOUR_SECONDS, Ledger, Used

WIDTHS: Final = {"1h": (1, 24, 168), "1d": (DAY_HOURS, 7, 31)}
"""Of each `bucket_width`: its hours, the default `limit`, the largest."""
GROUPS: Final = ("project_id", "user_id", "api_key_id", "model", "batch")
_LATEST: Final = 4_102_444_800
"""The year 2100."""


class Asked(NamedTuple):
    """What is asked for."""

    first_hour: int
    end_hour: int
    width: int
    """Hours of a bucket."""
    limit: int
    group_by: frozenset[str]
    filters: dict[str, frozenset[str]]
    batch: bool | None


def read_asked(pairs: Iterable[tuple[str, str]]) -> Asked:
    """Return what a query asks for; names may end in `[]`, as SDKs write lists. Raises InvalidRequest."""
    lists: dict[str, list[str]] = {}
    for name, value in pairs:
        lists.setdefault(name.removesuffix("[]"), []).extend(value.split(",") if name.endswith("[]") else [value])
    known = {"start_time", "end_time", "bucket_width", "group_by", "limit", "page", "batch", "models"}
    known |= {"project_ids", "user_ids", "api_key_ids"}
    for name in lists.keys() - known:
        raise InvalidRequest(f"Unknown parameter: '{name}'. Leave it out.", param=name, code="unknown_parameter")
    one = {name: values[-1] for name, values in lists.items()}
    width_name = one.get("bucket_width", "1d")
    if width_name not in WIDTHS:
        raise _invalid("bucket_width", "must be '1h' or '1d'; usage is not counted by the minute")
    width, default, most = WIDTHS[width_name]
    if "start_time" not in one:
        raise InvalidRequest(
            "Missing required parameter: 'start_time'.", param="start_time", code="missing_required_parameter"
        )
    start = _number(one, "start_time", 0, 0, _LATEST)
    end = _number(one, "end_time", int(time.time()) + 1, 0, _LATEST)
    if end <= start:
        raise _invalid("end_time", "must be later than 'start_time'")
    group_by = frozenset(lists.get("group_by", ()))
    for name in group_by - set(GROUPS):
        raise _invalid("group_by", f"must be of {', '.join(GROUPS)}, not '{name[:64]}'")
    if one.get("batch") not in (None, "true", "false"):
        raise _invalid("batch", "must be true or false")
    filters = {
        field: frozenset(lists[name])
        for name, field in (("models", "model"), ("project_ids", "group"), ("api_key_ids", "token"), ("user_ids", ""))
        if name in lists
    }
    first = start // HOUR_SECONDS // width * width
    end_hour = -(-end // HOUR_SECONDS)
    if "page" in one:
        page = one["page"].removeprefix("page_")
        if not (page.isascii() and page.isdigit() and first <= int(page) <= end_hour and not int(page) % width):
            raise _invalid("page", "must be a 'next_page' of the same query")
        first = int(page)
    limit = _number(one, "limit", default, 1, most)
    batch = None if one.get("batch") is None else one["batch"] == "true"
    return Asked(first, end_hour, width, limit, group_by, filters, batch)


def _number(one: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = one.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and least <= int(text[:12]) <= most):
        raise _invalid(name, f"must be a whole number from {least} to {most}")
    return int(text)


def _invalid(param: str, text: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{param}': {text}.", param=param, code="invalid_value")


async def usage_page(ledger: Ledger, asked: Asked, token: TokenSettings, kinds: Sequence[str]) -> dict[str, Any]:
    """Return a page of buckets: everybody's for a viewer, else the token's own."""
    sees_all = is_allowed(token.role, "viewer")

    def keeps(key: Key) -> bool:
        if key.kind not in kinds or not (sees_all or key.token == token.name):
            return False
        if asked.batch is not None and asked.batch is not (key.lane == "batch"):
            return False
        # Nothing is counted by user, so nothing is of the users asked for.
        return all(name != "" and getattr(key, name) in wanted for name, wanted in asked.filters.items())

    end = min(asked.end_hour, asked.first_hour + asked.limit * asked.width)
    try:
        used = await ledger.read(asked.first_hour, end)
    except (RedisUnavailable, RedisRefused) as error:
        raise BrokerUnavailable(retry_after=2) from error
    except StoreError as error:
        raise CapacityError(str(error), code="storage_unavailable", retry_after=2) from error
    data = []
    for first in range(asked.first_hour, end, asked.width):
        inside = [one for one in used if first <= one.hour < first + asked.width]
        data.append(
            {
                "object": "bucket",
                "start_time": first * HOUR_SECONDS,
                "end_time": (first + asked.width) * HOUR_SECONDS,
                "results": _results(inside, asked.group_by, keeps),
            }
        )
    has_more = end < asked.end_hour
    return {"object": "page", "data": data, "has_more": has_more, "next_page": f"page_{end}" if has_more else None}


def _results(used: Sequence[Used], group_by: frozenset[str], keeps: Any) -> list[dict[str, Any]]:
    sums: dict[tuple[Any, ...], Counters] = {}
    for _, of_hour in used:
        for key, counts in of_hour.items():
            if keeps(key):
                values = {
                    "project_id": key.group or None, "user_id": None, "api_key_id": key.token, "model": key.model,
                    "batch": key.lane == "batch",
                }  # fmt: skip
                name = tuple(values[group] if group in group_by else None for group in GROUPS)
                known = sums.get(name)
                sums[name] = counts if known is None else known.plus(counts)
    return [
        {
            "object": "organization.usage.completions.result",
            "input_tokens": counts.prompt_tokens,
            "output_tokens": counts.completion_tokens,
            "input_cached_tokens": counts.cached_tokens,
            "input_audio_tokens": 0,
            "output_audio_tokens": 0,
            "num_model_requests": counts.requests,
            **dict(zip(GROUPS, name, strict=True)),
        }
        for name, counts in sorted(sums.items(), key=lambda pair: str(pair[0]))
    ]
