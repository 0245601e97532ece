"""`aqueduct token create|list|revoke`: bearer tokens made, shown and withdrawn while the gateway runs."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from redis.exceptions import RedisError

from aqueduct.commands.redis_choice import chosen_redis_url
from shared.config import ConfigError, config_path, load_settings
from shared.config_problems import reason, suggestion
from shared.redis_sync import connect
from shared.settings import LANES, Settings
from shared.tokens import (
    MIRROR_NAME,
    StoredToken,
    TokenNameTaken,
    TokenStore,
    UnreadableMirror,
    hash_token,
    new_token,
    read_mirror,
)

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_UNNAMED_MODELS = {"models": {"any": {"backends": [{"url": "http://127.0.0.1"}]}}}
"""Stands in where there is no file: a token needs Redis and the data folder only."""


class _Refused(Exception):
    """The command line asks for something impossible; the text says what and how to mend it."""


def add_parser(subparsers: Any) -> None:
    """Add `token` and its three actions; `args.run` is what to call."""
    parser = subparsers.add_parser("token", help="create, list and revoke bearer tokens", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a token and print it, once")
    create.add_argument("name", metavar="NAME", help="whose token it is: letters, digits and . _ @ -")
    create.add_argument("--models", metavar="A,B", help="models or aliases it may use (default: all)")
    create.add_argument("--lane", choices=LANES, default="default", help="the lane its requests take")
    create.add_argument("--weight", type=float, default=1, help="its share inside the lane (default: 1)")
    create.add_argument("--expires", metavar="WHEN", help="a span such as 12h, 30d or 8w, or a date such as 2027-01-31")
    create.add_argument("--requests-per-minute", type=int, metavar="N")
    create.add_argument("--concurrent-jobs", type=int, metavar="N", help="waiting and running together")
    listing = actions.add_parser("list", help="show the tokens, static ones too")
    revoke = actions.add_parser("revoke", help="withdraw a token; takes effect within 5 seconds")
    revoke.add_argument("name", metavar="NAME")
    for action in (create, listing, revoke):
        action.add_argument("--config", type=Path, default=argparse.SUPPRESS, metavar="FILE")
        action.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out one action; 0 if done, 1 if Redis or the mirror failed, 2 if the request or the file is at fault."""
    try:
        path = config_path(getattr(args, "config", None))
        settings = load_settings(path, resolve_backend_keys=False, base=_UNNAMED_MODELS)
        return _act(args, settings, knows_models=path is not None)
    except (ConfigError, _Refused, TokenNameTaken) as error:
        print(error, file=sys.stderr)
        return 2
    except UnreadableMirror as error:
        print(error, file=sys.stderr)
        return 1
    except RedisError as error:
        print(f"Redis cannot be used ({type(error).__name__}); see `aqueduct check`", file=sys.stderr)
        return 1


def _act(args: argparse.Namespace, settings: Settings, *, knows_models: bool) -> int:
    url = chosen_redis_url(settings)
    if url is None:
        raise _Refused("redis_url is not set and no `aqueduct up` runs here; set AQUEDUCT_REDIS_URL or redis_url")
    record = None
    if args.action == "create":
        token = new_token()
        record = _record(args, settings, token, knows_models=knows_models)
    with connect(url) as client:
        store = TokenStore(client, settings.data_dir)
        if record is not None:
            store.create(record)
            print(token)
            until = f" until {record.expires_at:%Y-%m-%d %H:%M %Z}" if record.expires_at else ""
            print(f"Token of {record.name}, valid{until}. It is shown only now: keep it.", file=sys.stderr)
        elif args.action == "list":
            _print_table(settings, store.list())
            read_mirror(settings.data_dir / MIRROR_NAME)  # a process that starts would stumble over it
        else:
            _revoke(args.name, settings, store)
    return 0


def _record(args: argparse.Namespace, settings: Settings, token: str, *, knows_models: bool) -> StoredToken:
    now = datetime.now(UTC)
    if args.name in {static.name for static in settings.tokens}:
        raise _Refused(f"a token named {args.name!r} stands in the configuration file; choose another name")
    models = [name.strip() for name in (args.models or "*").split(",") if name.strip()]
    known = settings.public_names()
    for name in models:
        if knows_models and name != "*" and name not in known:
            raise _Refused(f"--models: no model is called {name!r}{suggestion(name, known)}")
    try:
        return StoredToken.model_validate({
            "name": args.name,
            "sha256": hash_token(token),
            "models": models,
            "lane": args.lane,
            "weight": args.weight,
            "expires_at": _expiry(args.expires, now) if args.expires else None,
            "requests_per_minute": args.requests_per_minute,
            "concurrent_jobs": args.concurrent_jobs,
            "created_at": now,
        })  # fmt: skip
    except ValidationError as error:
        lines = []
        for found in error.errors(include_url=False):
            field = str(found["loc"][0])
            option = "NAME" if field == "name" else f"--{field.replace('_', '-')}"
            lines.append(f"{option}: {reason(dict(found), (field,), show=True)}")
        raise _Refused("\n".join(lines)) from None


def _expiry(text: str, now: datetime) -> datetime:
    """Return when a token ends; a date without a zone is meant in UTC."""
    try:
        if span := re.fullmatch(r"(\d{1,5})([mhdw])", text):
            when = now + timedelta(**{_UNITS[span[2]]: int(span[1])})
        else:
            when = datetime.fromisoformat(text)
            when = when if when.tzinfo else when.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise _Refused(f"--expires: {text!r} is neither a span such as 30d nor a date such as 2027-01-31") from None
    if when <= now:
        raise _Refused(f"--expires: {text!r} is already past")
    return when


def _print_table(settings: Settings, created: Sequence[StoredToken]) -> None:
    rows = [("NAME", "SHA256", "MODELS", "LANE", "WEIGHT", "EXPIRES", "CREATED")]
    for record in (*settings.tokens, *created):
        expires = f"{record.expires_at:%Y-%m-%d %H:%M %Z}" if record.expires_at else "never"
        if record.expires_at and record.expires_at <= datetime.now(UTC):
            expires += " (past)"
        made = f"{record.created_at:%Y-%m-%d}" if isinstance(record, StoredToken) else "in the file"
        models = ",".join(record.models)
        rows.append((record.name, record.sha256[:8], models, record.lane, f"{record.weight:g}", expires, made))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _revoke(name: str, settings: Settings, store: TokenStore) -> None:
    if store.revoke(name):
        print(f"Revoked {name}; every API process refuses it within 5 seconds.", file=sys.stderr)
        return
    if name in {static.name for static in settings.tokens}:
        raise _Refused(f"{name!r} stands in the configuration file; remove it there and restart the API")
    raise _Refused(f"no token is called {name!r}{suggestion(name, [record.name for record in store.list()])}")
