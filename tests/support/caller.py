"""A client in a process of its own, to kill: `Caller` posts one chat completion and writes what it gets to its log."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen

from tests.support.chat import CHAT, chat_body
from tests.support.processes import Process
from tests.support.system import System


class Caller:
    """One request by one process; `prompt` is how the backend's record tells it from others."""

    def __init__(self, system: System, folder: Path, model: str, prompt: str, *, stream: bool) -> None:
        self.prompt = prompt
        body = json.dumps(chat_body(model, prompt, stream=stream))
        self.process = Process.python(
            "-m", "tests.support.caller", f"{system.base_url}{CHAT}", system.token, body,
            log_file=folder / f"{prompt}.log",
        ).start()  # fmt: skip

    def received(self) -> str:
        """Return the bytes that arrived so far."""
        return self.process.log()

    def kill(self) -> None:
        """End it as a crash does: the kernel closes its connection."""
        self.process.kill()


def main() -> None:
    """Post the body and copy the answer to standard output as it comes."""
    url, token, body = sys.argv[1:]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urlopen(Request(url, body.encode(), headers), timeout=120) as answer:  # noqa: S310 - a loopback URL
        while part := answer.read1():
            sys.stdout.write(part.decode())
            sys.stdout.flush()


if __name__ == "__main__":
    main()
