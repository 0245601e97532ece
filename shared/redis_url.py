"""Redis URLs: which are understood, what is wrong with one that is not, and what each of our clients makes of one.

The forms are `redis://[user:password@]host:port/db`, the same with `rediss://` (TLS, certificates are verified unless
`?ssl_cert_reqs=none` says otherwise), `unix:///path/to/socket?db=0`, and
`sentinel://[user:password@]host:port,host:port/MASTER/db?sentinel_password=…`, where user and password are Redis's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qs, parse_qsl, unquote, urlencode, urlsplit

SCHEMES = ("redis", "rediss", "unix", "sentinel")
SENTINEL_PORT = 26379

_NO_CLUSTER = (
    "Redis Cluster cannot be the broker: kombu, under Celery, has no cluster transport. "
    "Use a single Redis, Sentinel, or a managed one with cluster mode off"
)
_CERT_REQS = {
    "required": "required", "optional": "optional", "none": "none",
    "CERT_REQUIRED": "required", "CERT_OPTIONAL": "optional", "CERT_NONE": "none",
}  # fmt: skip


@dataclass(frozen=True)
class SentinelUrl:
    """Where the Sentinels are and what to ask them; passwords are secret."""

    hosts: tuple[tuple[str, int], ...]
    master_name: str
    db: int
    username: str | None
    password: str | None
    sentinel_username: str | None
    sentinel_password: str | None


def redis_url_problem(url: str) -> str | None:
    """Return what is wrong with a Redis URL, in words that hold no part of its password; None if nothing is."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        return "must be a URL such as redis://127.0.0.1:6379/0"
    if "cluster" in scheme.lower():
        return _NO_CLUSTER
    if scheme not in SCHEMES:
        return f"must begin with {', '.join(f'{name}://' for name in SCHEMES[:-1])} or {SCHEMES[-1]}://"
    try:
        query = parse_qs(_split(url)[0].query, keep_blank_values=True)
        if any("cluster" in name.lower() for name in query):
            return _NO_CLUSTER
        return _sentinel_problem(url) if scheme == "sentinel" else _plain_problem(url, query)
    except ValueError:
        return "is not a usable URL; write special characters of the password as %XX (an @ is %40, a / is %2F)"


def shown_url(url: str) -> str:
    """Return where a URL leads, for people: without user, password and options."""
    parts, hosts = _split(url)
    return f"{parts.scheme}://{hosts}{parts.path}"


def _split(url: str) -> tuple[SplitResult, str]:
    """Return the parts of a URL, with a word for its hosts, and these: urlsplit refuses `[::1]` behind another host."""
    scheme, _, rest = url.partition("://")
    login, at, hosts = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")
    if not url.startswith("sentinel:"):
        return urlsplit(url), hosts
    return urlsplit(f"{scheme}://{login}{at}hosts{rest[len(login + at + hosts) :]}"), hosts


def _plain_problem(url: str, query: dict[str, list[str]]) -> str | None:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return None if parts.path.strip("/") else "needs the socket's path, as unix:///run/redis.sock"
    if "," in parts.netloc.rpartition("@")[2]:
        return f"names several hosts: for Sentinel begin it with sentinel://. {_NO_CLUSTER}"
    if not parts.hostname:
        return "needs a host, as redis://127.0.0.1:6379/0"
    _ = parts.port  # raises ValueError when it is no number
    if parts.path.strip("/") and not parts.path.strip("/").isdigit():
        return "must end in the number of the database, as redis://127.0.0.1:6379/0"
    if query.get("ssl_cert_reqs", ["none"])[0] not in _CERT_REQS:
        return "ssl_cert_reqs must be required, optional or none"
    return None


def _sentinel_problem(url: str) -> str | None:
    path = _split(url)[0].path.strip("/").split("/")
    if not path[0] or len(path) > 2 or (len(path) == 2 and not path[1].isdigit()):
        return "must end in the master's name and the database, as sentinel://host1:26379,host2:26379/mymaster/0"
    if not all(host for host, _ in parse_sentinel_url(url).hosts):
        return "needs a host before each port, as sentinel://host1:26379,host2:26379/mymaster/0"
    return None


def parse_sentinel_url(url: str) -> SentinelUrl:
    """Return the parts of a `sentinel://` URL; ValueError if it has none."""
    parts, hosts = _split(url)
    path = parts.path.strip("/").split("/")
    query = parse_qs(parts.query)
    return SentinelUrl(
        hosts=tuple(_host_and_port(text) for text in hosts.split(",")),
        master_name=unquote(path[0]),
        db=int(path[1]) if len(path) > 1 else 0,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        sentinel_username=query.get("sentinel_username", [None])[0],
        sentinel_password=query.get("sentinel_password", [None])[0],
    )


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or SENTINEL_PORT


def certificate_check(url: str) -> str:
    """Return how a `rediss://` URL wants certificates checked, as redis-py calls it; `required` unless it says less."""
    asked = parse_qs(urlsplit(url).query).get("ssl_cert_reqs", ["required"])[0]
    return _CERT_REQS.get(asked, "required")


def with_certificate_check(url: str, spell: Callable[[str], str] = str) -> str:
    """Return a URL that says how certificates are checked if it is a `rediss://` one; others stay as they are.

    Neither default is to be trusted (kombu's verifies nothing), and in redis-py the URL wins over an argument.
    """
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return url
    query = [(name, value) for name, value in parse_qsl(parts.query) if name != "ssl_cert_reqs"]
    return parts._replace(query=urlencode([*query, ("ssl_cert_reqs", spell(certificate_check(url)))])).geturl()


def sentinel_master(
    sentinel: Callable[..., Any], url: str, options: dict[str, Any], *, sentinel_seconds: float
) -> tuple[Any, Any]:
    """Return redis-py's Sentinel (`sentinel` is its class, for threads or for the loop) and its client of the master.

    `options` are for the connections to Redis; those to the Sentinels have less time, as there are several to ask.
    """
    where = parse_sentinel_url(url)
    asked = {
        **options,
        "socket_connect_timeout": sentinel_seconds,
        "socket_timeout": sentinel_seconds,
        "username": where.sentinel_username,
        "password": where.sentinel_password,
    }
    found = sentinel(where.hosts, sentinel_kwargs=asked)
    master = found.master_for(
        where.master_name, db=where.db, username=where.username, password=where.password, **options
    )
    return found, master
