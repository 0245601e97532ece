"""A large body is let go of as soon as its server has it, on every way to a backend."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.support.waiting import wait_until_async
from tests.workers.transport.scene import KINDS, Certificates, Kind, open_scene
from tests.workers.transport.stage import ASK, MEGABYTE, PATH, on_both_loops, read_all, within
from workers.transport.base import ConnectionLost, LargeBody

by_every_way = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@by_every_way
@on_both_loops
async def test_it_is_here_until_the_server_has_it_and_not_until_it_answers(
    kind: Kind, certificates: Certificates
) -> None:
    whole = os.urandom(8 * MEGABYTE)
    sent: list[bool] = []
    async with open_scene(kind, certificates) as scene:
        body = LargeBody(whole, lambda: sent.append(True))
        call = asyncio.create_task(scene.transport.post(PATH, ASK, body))
        side = await scene.accept()
        await asyncio.sleep(0.05)
        assert not sent or kind.proxy  # nobody has read it, but a proxy may
        _, headers, seen = await side.ask()
        assert (seen == whole, headers.get("content-length", str(len(whole)))) == (True, str(len(whole)))
        await wait_until_async(lambda: sent == [True])
        assert body.data == b""
        await side.head()
        await side.finish()
        assert await read_all(await within(call)) == b""
        small = LargeBody(b"{}", lambda: sent.append(True))
        call = asyncio.create_task(scene.transport.post(PATH, ASK, small))
        await side.ask()
        await side.head()
        await side.finish()
        assert await read_all(await within(call)) == b""
        assert (sent, small.data) == ([True, True], b"")


@by_every_way
@on_both_loops
async def test_what_is_here_no_more_is_never_sent_again(kind: Kind, certificates: Certificates) -> None:
    async with open_scene(kind, certificates) as scene:
        _, side = await scene.exchange()
        call = asyncio.create_task(scene.transport.post(PATH, ASK, LargeBody(b"x" * MEGABYTE, lambda: None)))
        await side.ask()
        side.peer.close()
        with pytest.raises(ConnectionLost):
            await within(call)
