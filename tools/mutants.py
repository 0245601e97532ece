"""Breaks the product in known ways, one at a time, and sees whether the test that is named for each break fails.

In: `tools/mutants/*.toml`, lists of one-line breakages. Out: a line for each (caught, survived, stale, error) and exit
status 1 when any was not caught. Breaks are made in copies of the tree, never in place; `--jobs` copies work at once.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTS = ROOT / "tools" / "mutants"
COPIED = ("aqueduct", "api", "workers", "shared", "tests", "tools", "docs", "benchmarks", ".ci")
COPIED_FILES = (
    "pyproject.toml",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE",
    "compose.yaml",
    "Makefile",
    "Dockerfile",
    ".env.example",
    ".dockerignore",
)
TIMEOUT_SECONDS = 180
TESTS_FAILED = 1
"""pytest's exit status when tests ran and some failed; others say that it could not run them."""


@dataclass(frozen=True)
class Mutant:
    """One break: in `file`, `old` (found exactly once) becomes `new`; `test` (a node id) must then fail."""

    file: str
    old: str
    new: str
    test: str

    @property
    def name(self) -> str:
        """The break in one short line."""
        return f"{self.file}: {' '.join(self.old.split())[:60]!r} -> {' '.join(self.new.split())[:60]!r}"

    def apply(self, tree: Path) -> str | None:
        """Break the copy; returns the former text, or None when the break no longer fits the code."""
        path = tree / self.file
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if text.count(self.old) != 1 or self.old == self.new:
            return None
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")
        return text


def main() -> int:
    """Run the list; 0 when every break was caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="only breaks whose file, text or test has all of these"
    )
    parser.add_argument("--jobs", type=int, default=2, help="copies of the tree that work at once (2)")
    parser.add_argument("--list", action="store_true", help="only say which breaks still fit the code")
    args = parser.parse_args()
    mutants = [Mutant(**entry) for path in sorted(LISTS.glob("*.toml")) for entry in _entries(path)]
    chosen = [m for m in mutants if all(word in f"{m.name} {m.old} {m.new} {m.test}" for word in args.words)]
    if not chosen:
        parser.error("no break has all of these words")  # to test nothing by name would test everything
    with tempfile.TemporaryDirectory(prefix="aqueduct-mutants-") as folder:
        trees = [_copy(Path(folder) / str(number)) for number in range(1 if args.list else max(1, args.jobs))]
        if args.list:
            verdicts = ["stale" if mutant.apply(trees[0]) is None else _undo(mutant, trees[0]) for mutant in chosen]
            for mutant, verdict in zip(chosen, verdicts, strict=True):
                print(f"{verdict:<9} {mutant.name}")
        else:
            if not _is_green(trees[0], sorted({mutant.test for mutant in chosen})):
                return 1
            verdicts = _run_all(chosen, trees)
    counts = Counter(verdicts)
    print(f"{len(chosen)} breaks: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    return 0 if counts.keys() <= {"caught", "fits"} else 1


def _entries(path: Path) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    return entries


def _undo(mutant: Mutant, tree: Path) -> str:
    shutil.copy2(ROOT / mutant.file, tree / mutant.file)
    return "fits"


def _copy(tree: Path) -> Path:
    """Copy what the tests need; caches and data stay behind."""
    ignored = shutil.ignore_patterns("__pycache__", "node_modules", ".*cache", "*.whl")
    tree.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in COPIED_FILES:
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, tree / name)
    return tree


def _is_green(tree: Path, tests: list[str]) -> bool:
    """Tell whether all named tests pass on the unbroken code; a break that "fails" anyway would prove nothing."""
    print(f"running the {len(tests)} named tests on the unbroken code", flush=True)
    status, output = _pytest(tree, tests, timeout_seconds=20 * TIMEOUT_SECONDS)
    if status != 0:
        print(output[-6000:])
        print("the named tests must pass before anything is broken")
    return status == 0


def _run_all(mutants: list[Mutant], trees: list[Path]) -> list[str]:
    free: queue.Queue[Path] = queue.Queue()
    for tree in trees:
        free.put(tree)

    def run(mutant: Mutant) -> str:
        tree = free.get()
        began = time.monotonic()
        try:
            verdict, output = _try(mutant, tree)
        finally:
            free.put(tree)
        print(f"{verdict:<9} {time.monotonic() - began:5.1f} s  {mutant.name}", flush=True)
        if verdict != "caught":
            print(f"          by {mutant.test}\n{output[-1500:]}", flush=True)
        return verdict

    with ThreadPoolExecutor(len(trees)) as pool:
        return list(pool.map(run, mutants))


def _try(mutant: Mutant, tree: Path) -> tuple[str, str]:
    text = mutant.apply(tree)
    if text is None:
        return "stale", "its text is not in the file exactly once: mend the entry in tools/mutants/"
    try:
        status, output = _pytest(tree, [mutant.test], timeout_seconds=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return "caught", "the test did not end"
    finally:
        (tree / mutant.file).write_text(text, encoding="utf-8")
    if status == 0:
        return "survived", output
    return ("caught" if status == TESTS_FAILED else "error"), output


def _pytest(tree: Path, tests: list[str], *, timeout_seconds: float) -> tuple[int, str]:
    """Run tests of a copy; bytecode is not kept, since a break may leave a file's size and second unchanged."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    ended = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=timeout_seconds, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


if __name__ == "__main__":
    sys.exit(main())
