"""Run a command as on a bare machine: `python3 tools/bare.py make test`.

In: a command. Out: its exit status. Its PATH is one temporary folder that holds this Python, make, git and the base
system's tools, and nothing else that this machine may have; the rest of the environment stays as it is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

NEEDED = ("git", "make", "sh")
BASE = (
    "[", "awk", "basename", "bash", "cat", "chmod", "chown", "cmp", "comm", "cp", "cut", "date", "dd", "df", "diff",
    "dirname", "du", "echo", "env", "expr", "false", "find", "grep", "gzip", "head", "hostname", "id", "kill", "ln",
    "ls", "mkdir", "mkfifo", "mktemp", "mv", "nice", "nohup", "nproc", "od", "paste", "printf", "pwd", "readlink",
    "realpath", "rm", "rmdir", "sed", "seq", "sha256sum", "sleep", "sort", "split", "stat", "stty", "tail", "tar",
    "tee", "test", "timeout", "touch", "tr", "true", "tty", "uname", "uniq", "wc", "which", "whoami", "xargs",
)  # fmt: skip
HIDDEN = (
    "redis-server", "redis-cli", "valkey-server", "valkey-cli", "nginx", "node", "npm", "java", "javac",
    "systemd-analyze", "prometheus", "promtool", "moto_server", "chromium", "google-chrome", "curl", "openssl",
    "docker", "sphinx-build", "go", "uv", "helm", "ip",
)  # fmt: skip
"""What machines of developers often have, and tests then lean on unseen."""


def main(command: list[str]) -> int:
    """Run the command; returns its exit status, 128 and the signal's number when a signal ended it."""
    if not command:
        return _fail("name a command: python3 tools/bare.py make test")
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return _fail(f"not on the PATH, but needed: {', '.join(missing)}. Install it, then try again.")
    with tempfile.TemporaryDirectory(prefix="bare-") as folder:
        fill(Path(folder))
        found = [name for name in HIDDEN if shutil.which(name, path=folder)]
        if found:
            return _fail(f"no machine is bare that has {', '.join(found)}: take it out of BASE in tools/bare.py.")
        # PYTHON may name another one; whoever chose it has started this with it.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
        return _run(command, environment | {"PATH": folder})


def fill(folder: Path) -> None:
    """Put the programs into an empty folder."""
    for name in (*NEEDED, *BASE):
        found = shutil.which(name)
        if found is not None:
            (folder / name).symlink_to(Path(found).absolute())
    # No link: an environment made by a linked Python points at the link, and would end with the folder.
    python = folder / "python3"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(str(Path(sys.executable).resolve()))} "$@"\n')
    python.chmod(0o755)


def _run(command: list[str], environment: dict[str, str]) -> int:
    try:
        child = subprocess.Popen(command, env=environment)
    except FileNotFoundError:
        return _fail(f"{command[0]} is none of the programs of a bare machine.")
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the child too, which knows how to end
    status = child.wait()
    return status if status >= 0 else 128 - status


def _fail(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
