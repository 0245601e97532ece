"""How much memory this process may count on: the machine's, or less where a control group (a container) says less."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def memory_bytes(groups: Path = _GROUPS, root: Path = _ROOT) -> int | None:
    """Return the smallest limit that can be read, or None where none can."""
    return min(filter(None, (_of_the_machine(), *_of_the_groups(groups, root))), default=None)


def _of_the_machine() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _of_the_groups(groups: Path, root: Path) -> Iterator[int]:
    """Yield the limits of our group and of all above it, in either version of control groups."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        # Inside a container the path may be the host's; the limit then stands at the top.
        parts = Path(path).parts[1:]
        for depth in range(len(parts) + 1):
            yield from _limit(top.joinpath(*parts[:depth], name))


def _limit(file: Path) -> Iterator[int]:
    try:
        yield int(file.read_text())
    except (OSError, ValueError):  # no such group, or `max`
        return
