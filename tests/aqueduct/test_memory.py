"""How much memory there is: the machine's, or what a container's control groups leave of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aqueduct.memory import memory_bytes

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MIB = 2**20


def limits(folder: Path, groups: str, **files: str) -> int | None:
    """Write a list of groups and files of limits (`_` in a name is `/`), and return what is found."""
    (folder / "groups").write_text(groups)
    for name, text in files.items():
        path = (
            folder
            / "top"
            / name.replace("_", "/").replace("limit", "memory.limit_in_bytes").replace("max", "memory.max")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return memory_bytes(folder / "groups", folder / "top")


def test_without_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path / "none", tmp_path) == MACHINE


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a_b_max": f"{64 * MIB}\n", "a_max": "max\n"}, 64 * MIB),
        ({"a_b_max": "max\n", "a_max": f"{32 * MIB}\n"}, 32 * MIB),
        ({"a_b_max": "max\n", "a_max": "max\n"}, MACHINE),
        ({"a_max": str(MACHINE * 2)}, MACHINE),
        ({"max": f"{16 * MIB}\n"}, 16 * MIB),  # in a container the path is the host's, and the limit stands at the top
    ],
)
def test_the_tightest_group_above_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert limits(tmp_path, "0::/a/b\n", **files) == expected


def test_groups_of_the_first_version_count_too(tmp_path: Path) -> None:
    files = {"memory_a_limit": str(48 * MIB), "cpu_a_limit": "1"}
    assert limits(tmp_path, "3:cpu,cpuacct:/a\n5:memory:/a\n", **files) == 48 * MIB
