"""The token table: who is let in, what they are told otherwise, and how created tokens arrive."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.tokens import TokenTable
from shared.backend_settings import BackendSettings
from shared.catalogue import Catalogue
from shared.errors import PermissionDenied, Unauthenticated
from shared.settings import ModelSettings, Settings
from shared.token_settings import ConfiguredToken, GroupSettings
from shared.tokens import StoredToken, hash_token
from tests.support.waiting import wait_until_async

MODELS = {
    "llama": ModelSettings(backends=(BackendSettings(url="http://127.0.0.1:9/v1"),), aliases=("fast",)),
    "other": ModelSettings(backends=(BackendSettings(url="http://127.0.0.1:9/v1"),)),
}


def table_of(*tokens: ConfiguredToken) -> TokenTable:
    return TokenTable(Catalogue(Settings(models=MODELS, tokens=tokens)))


def token(name: str, **fields: Any) -> ConfiguredToken:
    return ConfiguredToken(name=name, sha256=hash_token(f"sk-{name}"), **fields)


def stored(name: str, **fields: Any) -> StoredToken:
    return StoredToken(name=name, sha256=hash_token(f"sk-{name}"), created_at=datetime.now(UTC), **fields)


def refused(table: TokenTable, header: bytes | None) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as caught:
        table.authenticate(header)
    return caught.value


@pytest.mark.parametrize("header", [b"Bearer sk-a", b"bearer sk-a", b"BEARER  sk-a "])
def test_a_known_token_is_let_in(header: bytes) -> None:
    assert table_of(token("a")).authenticate(header).name == "a"


@pytest.mark.parametrize("header", [None, b"", b"Bearer", b"Bearer ", b"Basic c2stYTo=", b"sk-a", b"Bearer sk-a sk-a"])
def test_a_missing_or_malformed_header_has_no_code(header: bytes | None) -> None:
    error = refused(table_of(token("a")), header)
    assert (error.status, error.type) == (401, "invalid_request_error")
    assert error.body()["error"]["code"] is None
    assert error.headers == {"www-authenticate": "Bearer"}
    assert "sk-a" not in error.message


@pytest.mark.parametrize("header", [b"Bearer sk-canary", b"Bearer sk-past", b"Bearer \xff\xfe"])
def test_an_unknown_or_expired_token_is_an_invalid_key(header: bytes) -> None:
    past = token("past", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    error = refused(table_of(past), header)
    assert (error.status, error.body()["error"]["code"]) == (401, "invalid_api_key")
    assert "sk-" not in error.message


def test_the_refusal_of_an_unknown_token_begins_with_the_words_that_other_programs_look_for() -> None:
    assert refused(table_of(), b"Bearer sk-canary").message.startswith("Incorrect API key provided")


def test_a_token_is_let_in_until_it_expires() -> None:
    table = table_of(token("a", expires_at=datetime.now(UTC) + timedelta(minutes=1)))
    assert table.authenticate(b"Bearer sk-a").name == "a"


def test_models_are_allowed_by_name_or_alias() -> None:
    table = table_of()
    assert table.allows(token("a"), "anything")
    for named in ("llama", "fast"):
        limited = token("a", models=(named,))
        assert [name for name in ("llama", "fast", "other", "none") if table.allows(limited, name)] == ["llama", "fast"]


def test_created_tokens_come_and_go_and_never_take_a_static_name() -> None:
    table = table_of(token("a"))
    impostor = StoredToken(name="a", sha256=hash_token("sk-x"), created_at=datetime.now(UTC))
    table.replace_dynamic([stored("b"), impostor])
    assert table.authenticate(b"Bearer sk-b").name == "b"
    refused(table, b"Bearer sk-x")
    table.replace_dynamic([])
    refused(table, b"Bearer sk-b")
    assert table.authenticate(b"Bearer sk-a").name == "a"


def test_the_refresher_follows_redis_and_keeps_the_last_good_set() -> None:
    record, marker = stored("b"), [b"changed_at", b"now"]
    full = [*marker, record.sha256.encode(), record.model_dump_json().encode()]
    replies: list[Any] = []
    asked = 0

    async def call(*command: str) -> Any:
        nonlocal asked
        asked += 1
        assert command == ("HGETALL", "aq:tokens")
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies[0]

    async def scenario() -> None:
        table = table_of()

        async def settled(reply: Any) -> bool:
            """Whether the token is let in after two full reads of this reply."""
            replies[:] = [reply]
            before = asked
            await wait_until_async(lambda: asked >= before + 3)
            return record.sha256 in table._dynamic

        replies[:] = [full]
        task = asyncio.create_task(table.refresh_forever(call, 0.01))
        assert await settled(full)
        assert await settled(OSError("away"))
        assert await settled([])
        assert not await settled(marker)
        assert await settled({full[2]: full[3]})
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_a_token_created_just_now_is_let_in_at_once_and_guesses_share_a_look() -> None:
    async def scenario() -> None:
        looks: list[tuple[str, ...]] = []
        records: dict[str, bytes] = {}

        async def call(*command: str) -> Any:
            looks.append(command)
            name, _, *digests = command
            return {b"changed_at": b"now"} if name == "HGETALL" else [records.get(digest) for digest in digests]

        table = table_of()
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            task = group.create_task(table.refresh_forever(call, 600))
            await wait_until_async(lambda: len(looks) == 1)
            new = stored("new")
            records[new.sha256] = new.model_dump_json().encode()
            assert (await table.find(b"Bearer sk-new")).name == "new"
            assert looks[1:] == [("HMGET", "aq:tokens", new.sha256)]  # not all that were ever created
            guesses = await asyncio.gather(*(table.find(b"Bearer sk-no") for _ in range(50)), return_exceptions=True)
            assert all(isinstance(guess, Unauthenticated) for guess in guesses)
            assert looks[2:] == [("HMGET", "aq:tokens", hash_token("sk-no"))]
            assert (await table.find(b"Bearer sk-new")).name == "new"
            task.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("misfortune", [OSError("away"), None])
def test_a_redis_that_fails_or_hangs_during_the_look_refuses_as_before(
    misfortune: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.tokens.LOOK_SECONDS", 0.05)

    async def scenario() -> None:
        looks = 0

        async def call(*command: str) -> Any:
            nonlocal looks
            if command[0] == "HGETALL":
                return {b"changed_at": b"now"}
            looks += 1
            if misfortune is not None:
                raise misfortune
            await asyncio.Event().wait()

        table = table_of(token("a"))
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            task = group.create_task(table.refresh_forever(call, 600))
            await wait_until_async(lambda: table._call is not None)
            for expected in (1, 2):
                with pytest.raises(Unauthenticated) as caught:
                    await table.find(b"Bearer sk-no")
                assert (caught.value.status, caught.value.code, looks) == (401, "invalid_api_key", expected)
            assert (await table.find(b"Bearer sk-a")).name == "a"
            task.cancel()

    asyncio.run(scenario())


def test_a_group_narrows_what_its_tokens_may_use() -> None:
    group = GroupSettings(name="team", models=("fast",), lane="default")
    tokens = (
        token("a", group="team", lane="priority"),
        token("b", group="team", models=("other",), lane="flex"),
        token("c"),
    )
    table = TokenTable(Catalogue(Settings(models=MODELS, groups=(group,), tokens=tokens)))
    first, second, outside = (table.authenticate(b"Bearer sk-" + name) for name in (b"a", b"b", b"c"))
    assert [name for name in ("llama", "fast", "other") if table.allows(first, name)] == ["llama", "fast"]
    assert [name for name in ("llama", "fast", "other") if table.allows(second, name)] == []
    assert [name for name in ("llama", "fast", "other") if table.allows(outside, name)] == ["llama", "fast", "other"]
    assert (first.lane, second.lane) == ("default", "flex")
    assert (first.in_group, outside.in_group) == (group, None)
    assert (first.subjects, outside.subjects) == ((first, group), (outside,))


def test_a_token_whose_group_is_gone_is_refused_until_it_is_put_into_another() -> None:
    group = GroupSettings(name="team")
    catalogue = Catalogue(Settings(models=MODELS, groups=(group,)))
    table = TokenTable(catalogue)
    table.replace_dynamic([stored("a", group="team"), stored("b")])
    assert table.authenticate(b"Bearer sk-a").in_group == group
    assert catalogue.exchange(Settings(models=MODELS), "").settings == ("groups",)
    with pytest.raises(PermissionDenied, match=r"aqueduct token set a --group NAME"):
        table.authenticate(b"Bearer sk-a")
    assert table.authenticate(b"Bearer sk-b").name == "b"
    table.replace_dynamic([stored("a")])
    assert table.authenticate(b"Bearer sk-a").in_group is None
    table.replace_dynamic([stored("a", group="team")])
    catalogue.exchange(Settings(models=MODELS, groups=(GroupSettings(name="team", weight=3),)), "")
    placed = table.authenticate(b"Bearer sk-a").in_group
    assert placed is not None
    assert placed.weight == 3
