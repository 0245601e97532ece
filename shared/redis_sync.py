"""A Redis URL in, a synchronous client out: for commands and start-up checks, never for the request path."""

from __future__ import annotations

from typing import Any, Final, cast

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from shared.redis_url import redis_url_problem, sentinel_master, with_certificate_check

_TIMEOUTS: dict[str, Any] = {"socket_timeout": 5, "socket_connect_timeout": 2}
SENTINEL_SECONDS: Final = 1.0


def connect(url: str) -> redis.Redis:
    """Return a client that connects on first use and answers in bytes; the caller closes it.

    Raises ValueError for a URL that `redis_url_problem` refuses. Commands wait at most 5 s, connecting 2 s.
    """
    if problem := redis_url_problem(url):
        raise ValueError(f"redis_url: {problem}")
    options = {**_TIMEOUTS, "protocol": 2, "retry": _retry()}
    if url.startswith("sentinel://"):
        _, client = sentinel_master(Sentinel, url, options, sentinel_seconds=SENTINEL_SECONDS)
    else:
        client = redis.Redis.from_url(with_certificate_check(url), **options)
    return cast("redis.Redis", client)


def _retry() -> Retry:
    """Try once more, soon: a person waits; redis-py's own ten tries with back-off take seconds."""
    return Retry(ConstantBackoff(0.1), 1)
