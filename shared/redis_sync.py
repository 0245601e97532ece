"""A Redis URL in, a synchronous client out: for commands and start-up checks, never for the request path."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from shared.redis_url import certificate_check, parse_sentinel_url, redis_url_problem

_TIMEOUTS: dict[str, Any] = {"socket_timeout": 5, "socket_connect_timeout": 2}


def connect(url: str) -> redis.Redis:
    """Return a client that connects on first use and answers in bytes; the caller closes it.

    Raises ValueError for a URL that `redis_url_problem` refuses. Commands wait at most 5 s, connecting 2 s.
    """
    if problem := redis_url_problem(url):
        raise ValueError(f"redis_url: {problem}")
    if url.startswith("sentinel://"):
        return _connect_by_sentinel(url)
    if url.startswith("rediss://"):
        # A query argument wins over a keyword in redis-py, so the settled value goes into the URL.
        parts = urlsplit(url)
        query = [(k, v) for k, v in parse_qsl(parts.query) if k != "ssl_cert_reqs"]
        url = parts._replace(query=urlencode([*query, ("ssl_cert_reqs", certificate_check(url))])).geturl()
    client: redis.Redis = redis.Redis.from_url(url, protocol=2, retry=_retry(), **_TIMEOUTS)
    return client


def _connect_by_sentinel(url: str) -> redis.Redis:
    where = parse_sentinel_url(url)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        where.hosts,
        sentinel_kwargs={
            **_TIMEOUTS,
            "protocol": 2,
            "retry": _retry(),
            "username": where.sentinel_username,
            "password": where.sentinel_password,
        },
    )
    client: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
        where.master_name,
        db=where.db,
        username=where.username,
        password=where.password,
        protocol=2,
        retry=_retry(),
        **_TIMEOUTS,
    )
    return client


def _retry() -> Retry:
    """Try once more, soon: a person waits; redis-py's own ten tries with back-off take seconds."""
    return Retry(ConstantBackoff(0.1), 1)
