"""Whose batches these are, when Redis forgets."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from shared.batches.record import BatchRecord
from shared.catalogue import Catalogue
from shared.groups import GroupStore, StoredGroup
from shared.redis import RedisClient
from shared.tokens import StoredToken, TokenStore
from tests.support.asynchronous import asynchronous
from tests.support.batches import CHAT
from tests.support.processes import RedisServer
from tests.support.rooms import settings_of
from workers.batches.tokens import Tokens


@asynchronous
async def test_a_created_token_may_no_more_when_redis_has_lost_it(tmp_path: Path, own_redis: RedisServer) -> None:
    now = datetime.now(UTC)
    made = StoredToken(name="one", sha256="1" * 64, models=("m",), group="team", created_at=now)
    with own_redis.client() as sync:
        GroupStore(sync, tmp_path / "data").create(StoredGroup(name="team", weight=3, created_at=now))
        TokenStore(sync, tmp_path / "data").create(made)
    record = BatchRecord(
        id="batch_" + "1" * 32, endpoint=CHAT, input_file_id="file-1", completion_window="24h",
        created_at=1, expires_at=2, token="one", is_configured=False,
    )  # fmt: skip
    client = RedisClient(own_redis.url, "test")
    await client.open()
    try:
        tokens = Tokens(client, Catalogue(settings_of({"m": {}}, own_redis.url)))
        for is_lost in (False, True):
            if is_lost:
                await client.call("FLUSHALL")
            tokens._read_at = float("-inf")
            found = await tokens.find(record)
            assert found is not None and found.models == ("m",)
            assert found.in_group is not None and found.in_group.weight == 3
    finally:
        await client.close()
