"""Loads the Lua scripts and runs them: name and arguments in, reply out, with NOSCRIPT mended on the way."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache
from importlib import resources

from shared import keys
from shared.redis import Argument, RedisClient, RedisRefused, Reply

_NAMES = {
    **keys.PREFIXES,
    "owners": keys.OWNERS,
    "control": keys.CONTROL,
    "sweeper": keys.SWEEPER,
    "swept": keys.SWEPT,
    "hold": keys.HOLD,
}


@cache
def source(name: str) -> str:
    """Return a script's whole text: the key names, the shared head, the script itself."""
    folder = resources.files("shared.scripts")
    names = ", ".join(f"{key} = '{value}'" for key, value in _NAMES.items())
    head = (folder / "head.lua").read_text("utf-8")
    return f"local NAMES = {{{names}}}\n{head}\n{(folder / f'{name}.lua').read_text('utf-8')}"


@cache
def sha1(name: str) -> bytes:
    """Return the hash by which Redis knows the script."""
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest().encode()


class Scripts:
    """Runs scripts by hash on one connection."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def start(self, name: str, *arguments: Argument) -> asyncio.Future[Reply]:
        """Send the script at once, without mending NOSCRIPT; for callers that pipeline and resend by themselves."""
        return self._client.call(b"EVALSHA", sha1(name), 0, *arguments)

    async def load(self, *names: str) -> None:
        """Load scripts into Redis, so that the first call of each finds them."""
        await asyncio.gather(*(self._client.call("SCRIPT", "LOAD", source(name)) for name in names))

    async def run(self, name: str, *arguments: Argument) -> Reply:
        """Run a script and return its reply; raises RedisRefused or RedisUnavailable.

        A restarted Redis has forgotten its scripts: NOSCRIPT means that nothing ran, so it is loaded and sent again.
        """
        try:
            return await self.start(name, *arguments)
        except RedisRefused as error:
            if error.kind != "NOSCRIPT":
                raise
        await self._client.call("SCRIPT", "LOAD", source(name))
        return await self.start(name, *arguments)
