"""Calls a hook of the configuration: a request or a command; returns what went wrong in a few words without secrets."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import httpcore2

from shared.absence_settings import HookSettings
from shared.logging import escaped
from shared.tls_files import client_context

MOST_OUTPUT_BYTES: Final = 4096
"""Of a command's output, kept."""
PIECE_BYTES: Final = 65_536
MOST_SHOWN_CHARACTERS: Final = 200
KILLED_SECONDS: Final = 2.0
"""For what was killed to be gone."""


async def call_hook(hook: HookSettings, model: str) -> str | None:
    """Call a hook within its time limit; returns why it failed, None for success. Cancelling kills its command."""
    try:
        if hook.command is not None:
            return await _run(hook.command, model, hook.timeout_seconds)
        async with asyncio.timeout(hook.timeout_seconds):
            return await _send(hook)
    except TimeoutError:
        return f"no answer within {hook.timeout_seconds:g} s"


async def _send(hook: HookSettings) -> str | None:
    url = hook.url or ""
    headers = {name: text.get_secret_value() for name, text in (hook.headers or {}).items()}
    if hook.body:
        headers.setdefault("content-type", "application/json")
    body = hook.body.encode()
    fields = [(b"user-agent", b"aqueduct"), (b"content-length", b"%d" % len(body))]
    fields += [(name.encode(), text.encode()) for name, text in headers.items()]
    tls = client_context() if url.startswith("https:") else None
    try:
        async with (
            httpcore2.AsyncConnectionPool(ssl_context=tls) as pool,
            pool.stream(hook.method, url, headers=[(b"host", _host(url)), *fields], content=body) as answer,
        ):
            status = answer.status  # its body is read no further, and held nowhere
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError) as error:
        return f"{type(error).__name__} at {urlsplit(url).hostname}"
    return None if 200 <= status < 300 else f"{urlsplit(url).hostname} answered {status}"


def _host(url: str) -> bytes:
    return urlsplit(url).netloc.encode()


async def _run(command: tuple[str, ...], model: str, timeout_seconds: float) -> str | None:
    with _Output() as said:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said.writing,
                stderr=said.writing,
                start_new_session=True,
                env={**os.environ, "AQUEDUCT_MODEL": model},
            )
        except (OSError, ValueError) as error:
            return f"{command[0]} cannot be run: {getattr(error, 'strerror', None) or type(error).__name__}"
        name = os.path.basename(command[0])
        try:
            async with asyncio.timeout(timeout_seconds):
                code = await process.wait()
        except TimeoutError:
            return f"{name} was killed after {timeout_seconds:g} s{said.last_line()}"
        finally:
            if process.returncode is None:
                _kill(process.pid)
                with suppress(TimeoutError):
                    async with asyncio.timeout(KILLED_SECONDS):
                        await process.wait()
        return None if code == 0 else f"{name} ended with {code}{said.last_line()}"


class _Output:
    """What a command says: its beginning is kept, the rest read and dropped, so that it never blocks.

    A pipe of our own, as the library's would be waited for as long as anything that the command has left behind has it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._said = bytearray()
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)

    def __enter__(self) -> _Output:
        self._loop.add_reader(self._reading, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._reading)
        os.close(self._reading)
        os.close(self.writing)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            self._said += os.read(self._reading, PIECE_BYTES)[: MOST_OUTPUT_BYTES - len(self._said)]

    def last_line(self) -> str:
        """Return the last line that was kept, made harmless."""
        self._read()
        lines = self._said.decode(errors="replace").strip().splitlines()
        return f": {escaped(lines[-1][:MOST_SHOWN_CHARACTERS])}" if lines else ""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
