"""A process's ear for reloads: by SIGHUP, or asked for through Redis by `aqueduct reload`, where each process answers.

The file is read beside the event loop; what it says is exchanged on it, between two steps of whatever runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from shared import keys
from shared.background import Background
from shared.catalogue import Catalogue, Changes
from shared.config_problems import ConfigError
from shared.logging import set_level
from shared.redis import RedisClient, RedisRefused, RedisUnavailable, Subscriber

log = logging.getLogger("aqueduct.reload")

ANSWER_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What one process has to say of a reload, as JSON in Redis."""

    process: str
    role: str
    """api, worker or up."""
    digest: str
    """Of the file by which the process runs now."""
    served: Sequence[str]
    """The models that a worker serves."""
    changes: dict[str, str]
    error: str = ""
    """Why the file was refused; the process then runs by the last good one."""


class Reloading:
    """Reloads one process's catalogue; `open` and `close` it on the catalogue's event loop."""

    def __init__(
        self,
        catalogue: Catalogue,
        client: RedisClient,
        role: str,
        process: str,
        served: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Take a name that no other process has, and, of a worker, what tells the models that it serves."""
        self._catalogue = catalogue
        self._client = client
        self._role = role
        self._process = process
        self._served = served
        self._background = Background()
        self._one_at_a_time = asyncio.Lock()
        self._subscriber = Subscriber(
            catalogue.settings.redis, [keys.RELOAD], self._asked, self._subscribed, name="reload"
        )
        self._last: str | None = None
        """What was asked last, here or before this process came."""

    async def open(self) -> None:
        """Listen. Raises RedisUnavailable."""
        await self._subscriber.open()
        self._client.on_connected.append(self._follow)
        self._background.step(self._catch_up(), "reload")

    async def _catch_up(self) -> None:
        """Take what the file has become since it was read at the start: whoever asked then was not heard here."""
        source = self._catalogue.source
        if source is not None and await asyncio.to_thread(source.digest) != self._catalogue.digest:
            await self.reload()

    async def _follow(self) -> None:
        self._subscriber.follow(self._client)
        await self._look_back()

    def _subscribed(self) -> None:
        self._background.step(self._look_back(), "reload")

    async def _look_back(self) -> None:
        """Do what was asked for while the connection was away."""
        try:
            last = await self._client.call("GET", keys.RELOAD_LAST)
        except (RedisUnavailable, RedisRefused):
            return  # looked for again once it is back
        request = (last or b"").decode("ascii", "replace")
        known, self._last = self._last, request or self._last or ""
        if request and known is not None and request != known:
            await self._answer(request)

    async def close(self) -> None:
        """Listen no more."""
        await self._subscriber.close()
        await self._background.close()

    def hang_up(self) -> None:
        """Reload: SIGHUP came. To be called on the loop."""
        self._background.step(self.reload(), "reload")

    def _asked(self, request: bytes) -> None:
        self._last = request.decode("ascii", "replace")
        self._background.step(self._answer(self._last), "reload")

    async def _answer(self, request: str) -> None:
        answer = await self.reload()
        key = keys.reloaded(request)
        try:
            await self._client.call("RPUSH", key, orjson.dumps(asdict(answer)))
            await self._client.call("PEXPIRE", key, ANSWER_MS)
        except (RedisUnavailable, RedisRefused) as error:
            log.warning("reloaded, and could not say so: %s", type(error).__name__)

    async def reload(self) -> Answer:
        """Read the file again and run by it; where it is wrong say why, and run on by the last good one."""
        async with self._one_at_a_time:
            try:
                changes = await self._exchange()
            except ConfigError as error:
                log.error(
                    "the configuration was not reloaded, the last good one stays: %s",
                    "; ".join(str(error).splitlines()),
                )
                return self._told({}, str(error))
        if "log_level" in changes.settings:
            set_level(self._catalogue.settings.log_level)
        told = changes.told()
        log.info("reloaded", extra={"digest": self._catalogue.digest, **told})
        if changes.needs_restart:
            log.warning("some settings are as they were until a restart: %s", ", ".join(changes.needs_restart))
        return self._told(told)

    async def _exchange(self) -> Changes:
        source = self._catalogue.source
        if source is None:
            return Changes()
        return self._catalogue.exchange(*await asyncio.to_thread(source.read))

    def _told(self, changes: dict[str, Any], error: str = "") -> Answer:
        return Answer(self._process, self._role, self._catalogue.digest, tuple(self._served()), changes, error)
