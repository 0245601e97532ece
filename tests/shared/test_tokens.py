"""Created tokens: stored by hash, mirrored to a private file, restored when Redis lost them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from shared.keys import TOKENS
from shared.redis_sync import connect
from shared.tokens import (
    StoredToken,
    TokenNameTaken,
    TokenStore,
    UnreadableMirror,
    hash_token,
    new_token,
    parse_records,
    restore_from_mirror,
)
from tests.support.processes import RedisServer


def record(name: str, token: str | None = None) -> StoredToken:
    return StoredToken(name=name, sha256=hash_token(token or new_token()), created_at=datetime.now(UTC))


@pytest.fixture
def client(own_redis: RedisServer) -> Iterator[redis.Redis]:
    with connect(own_redis.url) as client:
        yield client


def test_new_tokens_are_random_and_hashed_as_sha256() -> None:
    assert re.fullmatch(r"sk-aq-[A-Za-z0-9_-]{40}", new_token())
    assert new_token() != new_token()
    assert hash_token("abc") == hash_token(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_created_tokens_are_listed_until_revoked(client: redis.Redis, tmp_path: Path) -> None:
    store = TokenStore(client, tmp_path)
    first, second = record("b"), record("a")
    store.create(first)
    store.create(second)
    assert store.list() == [second, first]
    assert store.revoke("b")
    assert not store.revoke("b")
    assert store.list() == [second]


def test_a_name_is_given_once(client: redis.Redis, tmp_path: Path) -> None:
    store = TokenStore(client, tmp_path)
    store.create(record("a"))
    with pytest.raises(TokenNameTaken, match="'a' exists already"):
        store.create(record("a"))
    assert len(store.list()) == 1


def test_the_mirror_is_private_and_restores_a_lost_hash(client: redis.Redis, tmp_path: Path) -> None:
    store, mirror = TokenStore(client, tmp_path / "data"), tmp_path / "data" / "tokens.json"
    kept, gone = record("kept"), record("gone")
    store.create(kept)
    store.create(gone)
    store.revoke("gone")
    assert mirror.stat().st_mode & 0o777 == 0o600
    assert mirror.parent.stat().st_mode & 0o777 == 0o700
    assert restore_from_mirror(client, mirror) == 0
    client.flushall()
    assert restore_from_mirror(client, mirror) == 1
    assert store.list() == [kept]


def test_revoking_the_last_token_is_not_taken_for_a_loss(client: redis.Redis, tmp_path: Path) -> None:
    TokenStore(client, tmp_path / "one").create(record("a"))
    stale = (tmp_path / "one" / "tokens.json").read_text()
    assert TokenStore(client, tmp_path / "one").revoke("a")
    (tmp_path / "stale.json").write_text(stale)
    assert restore_from_mirror(client, tmp_path / "stale.json") == 0
    assert parse_records(client.hgetall(TOKENS)) == []  # type: ignore[arg-type]


def test_a_new_token_does_not_hide_a_loss(client: redis.Redis, tmp_path: Path) -> None:
    store = TokenStore(client, tmp_path)
    store.create(record("a"))
    client.flushall()
    store.create(record("b"))
    assert [token.name for token in store.list()] == ["a", "b"]


def test_a_mirror_that_is_missing_or_broken(client: redis.Redis, tmp_path: Path) -> None:
    assert restore_from_mirror(client, tmp_path / "none.json") == 0
    for content in (b"{", b"[1]", b"7", b"\xff"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(UnreadableMirror, match=r"bad\.json: is not a mirror of tokens; remove it"):
            restore_from_mirror(client, tmp_path / "bad.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UnreadableMirror, match=r"folder\.json: cannot be read"):
        restore_from_mirror(client, tmp_path / "folder.json")


def test_unreadable_and_misplaced_records_are_left_out() -> None:
    good = record("good")
    reply = [
        good.sha256.encode(), good.model_dump_json().encode(),
        b"changed_at", b"2026-01-01",
        b"0" * 64, b"{}",
        b"1" * 64, record("misplaced").model_dump_json().encode(),
    ]  # fmt: skip
    assert parse_records(reply) == [good]
