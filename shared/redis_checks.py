"""A Redis client in, findings out: whether this server can keep Aqueduct's promises."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Literal

import redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

MIN_VERSION = (6, 2)
MAX_CLOCK_DIFFERENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    status: Literal["ok", "warn", "fail"]
    message: str
    fix: str = ""
    """What to do; empty when nothing is wrong."""


def redis_problems(client: redis.Redis) -> list[Check]:
    """Return only what is wrong; a process must not start while one of them has the status `fail`."""
    return [check for check in redis_checks(client) if check.status != "ok"]


def redis_checks(client: redis.Redis) -> list[Check]:
    """Return every finding about the server; an unreachable one is a single finding. Raises nothing of redis-py's."""
    try:
        info: dict[str, Any] = dict(client.info())
    except RedisError as error:
        return [_unreachable(error)]
    return [
        _version(info),
        _cluster(info),
        _eviction(info),
        _memory_limit(info),
        _persistence(info),
        _slow_log(client),
        _clock(client),
    ]


def _unreachable(error: RedisError) -> Check:
    name = "redis"
    if isinstance(error, AuthenticationError):
        return Check(name, "fail", "refuses the user or password", "mend them in redis_url")
    if isinstance(error, NoPermissionError):
        return Check(name, "fail", "the user may not run INFO", "grant it: ACL SETUSER <name> +info")
    # Nothing of the error's own text: it may hold what the URL holds.
    return Check(name, "fail", f"cannot be reached ({type(error).__name__})", "start it, or mend redis_url")


def _version(info: dict[str, Any]) -> Check:
    text = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in re.findall(r"\d+", text)[:2]) < MIN_VERSION:
        return Check("redis version", "fail", f"is {text}", "use Redis 6.2 or newer, or Valkey")
    valkey = info.get("valkey_version")
    return Check("redis version", "ok", f"Valkey {valkey}" if valkey else f"Redis {text}")


def _cluster(info: dict[str, Any]) -> Check:
    if int(info.get("cluster_enabled", 0)) or info.get("redis_mode") == "cluster":
        fix = "use a single Redis, Sentinel, or a managed one with cluster mode off"
        return Check("redis mode", "fail", "runs in cluster mode; kombu, under Celery, has no cluster transport", fix)
    return Check("redis mode", "ok", str(info.get("redis_mode", "standalone")))


def _eviction(info: dict[str, Any]) -> Check:
    name = "redis maxmemory-policy"
    policy = info.get("maxmemory_policy")
    if policy is None:
        return Check(name, "warn", "cannot be read", "make sure that it is noeviction")
    if policy != "noeviction":
        message = f"is {policy}: Redis may throw away queued requests when memory is short"
        return Check(name, "fail", message, "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf")
    return Check(name, "ok", "noeviction")


def _memory_limit(info: dict[str, Any]) -> Check:
    name, fix = (
        "redis maxmemory",
        "CONFIG SET maxmemory 2gb, or what this machine can spare, and the same in redis.conf",
    )
    limit = info.get("maxmemory")
    if limit is None:
        return Check(name, "warn", "cannot be read", "make sure that it is set")
    if not int(limit):
        message = "is not set: what waits may fill the machine's memory until the system kills Redis"
        return Check(name, "warn", message, fix)
    return Check(name, "ok", f"{int(limit) // 2**20} MiB")


def _persistence(info: dict[str, Any]) -> Check:
    if int(info.get("aof_enabled", 0)):
        return Check("redis appendonly", "ok", "yes")
    message = "no: a restart of Redis loses accepted requests"
    return Check("redis appendonly", "warn", message, "CONFIG SET appendonly yes")


def _slow_log(client: redis.Redis) -> Check:
    name, fix = "redis slowlog-max-len", "CONFIG SET slowlog-max-len 0"
    try:
        reply: Any = client.config_get("slowlog-max-len")
        length = int(next(iter(reply.values())))
    except (RedisError, StopIteration, ValueError):
        return Check(name, "warn", "cannot be read; parts of prompts may stand in the slow log", fix)
    if length:
        return Check(name, "warn", f"is {length}: parts of prompts may stand in the slow log", fix)
    return Check(name, "ok", "0")


def _clock(client: redis.Redis) -> Check:
    try:
        seconds, microseconds = client.time()
    except RedisError as error:
        return _unreachable(error)
    difference = time.time() - (seconds + microseconds / 1e6)
    if abs(difference) > MAX_CLOCK_DIFFERENCE_SECONDS:
        message = f"differs by {difference:+.1f} s from this machine's"
        return Check("redis clock", "warn", message, "set both by NTP; tokens expire by this machine's clock")
    return Check("redis clock", "ok", "agrees with this machine's")
