"""What `aqueduct up` does of a reload: it reads the file beside its children, and has the workers follow."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aqueduct.supervisor import Say
from aqueduct.up_plan import Plan, renewed
from shared.catalogue import Catalogue, Source
from shared.redis import RedisClient, RedisUnavailable
from shared.reloading import Reloading

WATCH_SECONDS: Final = 1.0


class _Said(logging.Handler):
    """Prints warnings of a reload as this command's own lines; that it went well the children tell."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say("up", record.getMessage())


class Reloads:
    """The reloads of one `aqueduct up`; `run` it, made on its loop."""

    def __init__(
        self, plan: Plan, redis_url: str | None, *, watch: bool, follow: Callable[[Plan], None],
        reload_all: Callable[[], None], say: Say,
    ) -> None:  # fmt: skip
        """Take the URL of a Redis of its own, what has the workers follow a changed plan, and what has all reload."""
        environ = plan.environment | ({"AQUEDUCT_REDIS_URL": redis_url} if redis_url else {})
        logging.getLogger("aqueduct.reload").addHandler(_Said(say))
        self._plan = plan
        self._watch = watch
        self._follow = follow
        self._reload_all = reload_all
        self._source = Source(
            None, environ, resolve_backend_keys=True, resolve_flower_password=True, resolve_webhook_secrets=True
        )
        self._file = Path(environ["AQUEDUCT_CONFIG"])
        self._reloading: Reloading | None = None

    async def run(self) -> None:
        """Listen until cancelled."""
        catalogue = Catalogue.of(self._source)
        catalogue.follow(lambda: self._changed(catalogue))
        client = RedisClient(catalogue.settings.redis, "up")
        reloading = Reloading(catalogue, client, "up", f"{os.uname().nodename}-{os.getpid()}")
        try:
            await self._open(client, reloading)
            self._reloading = reloading
            await self._look()
        finally:
            await reloading.close()
            await client.close()

    @staticmethod
    async def _open(client: RedisClient, reloading: Reloading) -> None:
        while True:
            try:
                await client.open()
                await reloading.open()
            except RedisUnavailable:
                await asyncio.sleep(1)  # the children tell of it
            else:
                return

    def hang_up(self) -> None:
        """Read the file again."""
        if self._reloading is not None:
            self._reloading.hang_up()

    async def _look(self) -> None:
        """With --watch have all read the file when it has changed and stands still: it may be half written."""
        asked = seen = self._stamp()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            before, seen = seen, self._stamp()
            if self._watch and before == seen != asked and seen is not None:
                asked = seen
                self._reload_all()  # by signals, which need no Redis

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def _changed(self, catalogue: Catalogue) -> None:
        self._plan = renewed(self._plan, catalogue.settings)
        self._follow(self._plan)
