"""When a token was used last: told to a real Redis, beside the requests, and seldom."""

from __future__ import annotations

import asyncio
from typing import Any

from api.token_uses import TokenUses
from api.tokens import TokenTable
from shared.backend_settings import BackendSettings
from shared.catalogue import Catalogue
from shared.keys import TOKEN_USES
from shared.redis import RedisClient, RedisUnavailable
from shared.settings import ModelSettings, Settings
from shared.token_settings import ConfiguredToken
from shared.tokens import hash_token
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer

A, B = (hash_token(f"sk-{name}") for name in "ab")

MODEL = ModelSettings(backends=(BackendSettings(url="http://127.0.0.1:9/v1"),))


async def told(client: RedisClient) -> set[str]:
    return {field.decode() for field in await client.call("HKEYS", TOKEN_USES)}


@asynchronous
async def test_only_who_is_let_in_has_used_a_token_and_is_told_once_a_minute(module_redis: RedisServer) -> None:
    with module_redis.client() as plain:
        plain.flushall()
    client = RedisClient(module_redis.url)
    await client.open()
    uses = TokenUses(TOKEN_USES)
    tokens = tuple(ConfiguredToken(name=name, sha256=hash_token(f"sk-{name}")) for name in "ab")
    table = TokenTable(Catalogue(Settings(models={"m": MODEL}, tokens=tokens)), uses.note)
    sent: list[Any] = []

    async def call(*command: Any) -> Any:
        sent.append(command[0])
        return await client.call(*command)

    await uses.tell(call)
    assert sent == []  # nothing to say
    table.authenticate(b"Bearer sk-a")
    await uses.tell(call)
    assert await told(client) == {A}
    assert sent == ["HSET", "PEXPIRE"]
    for _ in range(100):
        table.authenticate(b"Bearer sk-a")
    await uses.tell(call)
    assert sent == ["HSET", "PEXPIRE"]
    table.authenticate(b"Bearer sk-b")  # the other is not told again with it
    await client.call("DEL", TOKEN_USES)
    await uses.tell(call)
    assert await told(client) == {B}
    assert await client.call("PTTL", TOKEN_USES) > 0
    await client.close()


@asynchronous
async def test_a_use_that_redis_did_not_take_is_told_later(own_redis: RedisServer) -> None:
    client = RedisClient(own_redis.url)
    await client.open()
    uses = TokenUses(TOKEN_USES, tell_seconds=0)
    uses.note(A)
    own_redis.kill()
    try:
        await uses.tell(client.call)
    except RedisUnavailable:
        own_redis.restart()
    async with asyncio.timeout(20):
        while True:
            try:
                await uses.tell(client.call)
                break
            except RedisUnavailable:
                await asyncio.sleep(0.1)
    assert await told(client) == {A}
    await client.close()
