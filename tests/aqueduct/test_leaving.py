"""A process that has used the store ends with its own exit status, whatever the store's threads are at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUNS = 24
AT_ONCE = 4
SCRIPT = """
import asyncio, atexit, sys
import obstore
from obstore.store import LocalStore
from aqueduct.leaving import leave

store = LocalStore(sys.argv[1])

async def use():
    loop, first = asyncio.get_running_loop(), asyncio.Event()
    async def read():
        await obstore.get_async(store, "a")
        first.set()
    await obstore.put_async(store, "a", b"1")
    tasks = [loop.create_task(read()) for _ in range(20)]
    await first.wait()

atexit.register(print, "at the exit")
asyncio.new_event_loop().run_until_complete(use())
print("done", end=" ")
leave(7)
"""
"""It ends while answers are on their way: with the interpreter's own end one in three such processes is aborted."""


def test_threads_of_the_store_abort_no_process(tmp_path: Path) -> None:
    for _ in range(RUNS // AT_ONCE):
        words = [sys.executable, "-c", SCRIPT, str(tmp_path)]
        running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(AT_ONCE)]
        ends = [(process.communicate(timeout=60)[0].strip(), process.returncode) for process in running]
        assert ends == [("done at the exit", 7)] * AT_ONCE
