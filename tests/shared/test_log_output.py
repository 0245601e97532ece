"""Lines of requests are gathered and written by a thread; none is lost, torn or out of its order but as is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared.log_output import ATOMIC
from tests.support.processes import ROOT

PROCESS = f"""
import logging, os, resource, signal, sys, threading, time
sys.path.insert(0, {str(ROOT)!r})
from shared.logging import configure_logging, write_line
configure_logging("text", "info")
log = logging.getLogger("aqueduct.test")
def gather(first, last, wide=0):
    for number in range(first, last):
        write_line(log, logging.INFO, {{"n": number, "wide": "x" * wide}}, "line")
"""
LINE = re.compile(r"\S+Z INFO aqueduct\.test line n=(\d+) wide=(x+|\"\")")
LOST = re.compile(r"\S+Z WARNING aqueduct\.log lines were lost lines=(\d+)")


def start(script: str, stderr: int, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS + script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=stderr, text=True,
    )  # fmt: skip


def written(script: str, folder: Path) -> list[str]:
    """Return the lines that a process has left in a file when it has ended."""
    with (folder / "log").open("wb") as file, start(script, file.fileno()) as process:
        process.communicate(timeout=30)
    return (folder / "log").read_text().splitlines()


def numbers(lines: list[str]) -> list[int]:
    """Return the numbers of whole lines; others must not be there but those that tell of lost ones."""
    found = [LINE.fullmatch(line) for line in lines if not LOST.fullmatch(line)]
    assert all(found), [line for line in lines if not LINE.fullmatch(line)][:3]
    return [int(line[1]) for line in found if line]


def lost(lines: list[str]) -> int:
    return sum(int(found[1]) for line in lines if (found := LOST.fullmatch(line)))


class Pipe:
    """A pipe whose reader takes its time."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def lines(self) -> list[str]:
        """Read all until its writers have ended."""
        os.close(self.writing)
        with os.fdopen(self.reading, "rb") as stream:
            return stream.read().decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for fd in (made.reading, made.writing):
        try:
            os.close(fd)
        except OSError:
            continue


@pytest.mark.parametrize(
    "end",
    [
        "sys.exit(3)",
        "raise RuntimeError('fatal')",
        "threading.Thread(target=lambda: 1 / 0).start()",
        "from shared.background import exit_process; exit_process()",
        "from aqueduct.leaving import leave; leave(0)",
        "log.warning('last'); os.kill(os.getpid(), signal.SIGKILL)",
    ],
)
def test_what_was_gathered_is_there_however_the_process_ends(tmp_path: Path, end: str) -> None:
    lines = written(f"gather(0, 500)\n{end}", tmp_path)
    assert numbers(lines[:500]) == list(range(500))
    assert not [line for line in lines[500:] if LINE.match(line)]


def test_any_other_line_is_written_before_its_call_returns_and_behind_those_that_wait(tmp_path: Path) -> None:
    script = """
for begun in range(0, 30, 3):
    gather(begun, begun + 3)
    log.warning("written %d", begun)
    assert os.fstat(2).st_size == sum(len(line) for line in open(sys.argv[1], "rb"))
    assert f"written {begun}" in open(sys.argv[1]).read()
"""
    with (tmp_path / "log").open("wb") as file, start(script, file.fileno(), str(tmp_path / "log")) as process:
        process.communicate(timeout=30)
    lines = (tmp_path / "log").read_text().splitlines()
    said = [LINE.sub(r"\1", line) if LINE.match(line) else line.rpartition(" ")[2] for line in lines]
    assert said == [str(n) for begun in range(0, 30, 3) for n in (begun, begun + 1, begun + 2, begun)]


def test_a_line_that_nobody_waits_for_comes_by_itself(pipe: Pipe) -> None:
    with start("gather(7, 8)\nsys.stdin.read()", pipe.writing) as process:
        assert numbers([os.read(pipe.reading, 4096).decode().rstrip("\n")]) == [7]
        process.communicate(timeout=30)


def test_a_full_pipe_stops_nothing_and_what_is_lost_is_told_where_it_was(pipe: Pipe) -> None:
    """Half a gigabyte of lines, which can be nowhere."""
    script = """
gather(0, 5_000, wide=100_000)
log.error("kept beyond the bound, and waited for no longer than a moment")
print("went on", flush=True)
sys.stdin.read()
gather(5_000, 5_003)
"""
    lines = [""]
    with start(script, pipe.writing) as process, os.fdopen(pipe.reading, closefd=False) as stream:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "went on\n"
        assert psutil.Process(process.pid).memory_info().rss < 150_000_000
        while "kept beyond the bound" not in lines[-1]:
            lines.append(stream.readline().rstrip("\n"))
        told = stream.readline().rstrip("\n")
        process.stdin.close()
        os.close(pipe.writing)
        after = stream.read().splitlines()
        process.wait(30)
    assert lost([told])
    expected = 0
    for line in [*lines[1:-1], told, *after]:
        if (left_out := lost([line])) == 0:
            assert numbers([line]) == [expected]
        expected += left_out or 1
    assert expected == 5_003
    assert numbers(after) == [5_000, 5_001, 5_002]


def test_a_process_ends_though_nobody_reads(pipe: Pipe) -> None:
    with start("gather(0, 50, wide=10_000)\nsys.exit(3)", pipe.writing) as process:
        assert process.wait(30) == 3
    lines = pipe.lines()[:-1]  # the last one was under way
    assert numbers(lines) == list(range(len(lines)))


def test_a_full_disk_stops_nothing_and_no_line_is_joined_with_the_half_of_another(tmp_path: Path) -> None:
    script = """
whole = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, whole[1]))
gather(0, 500)
logging.shutdown()
assert os.fstat(2).st_size == 10_000
resource.setrlimit(resource.RLIMIT_FSIZE, whole)
gather(500, 503)
"""
    lines = written(script, tmp_path)
    (torn,) = [line for line in lines if not LINE.fullmatch(line) and not LOST.fullmatch(line)]
    place = lines.index(torn)
    assert numbers(lines[:place]) == list(range(place))
    assert LOST.fullmatch(lines[place + 1])
    assert numbers(lines[place + 1 :]) == [500, 501, 502]
    assert lost(lines) == 500 - place


def test_a_pipe_that_was_made_not_to_block_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    with start("gather(0, 3_000, wide=300)\nprint('gathered', flush=True)", pipe.writing) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "gathered\n"
        assert numbers(pipe.lines()) == list(range(3_000))


def test_lines_of_two_processes_on_one_pipe_stay_whole(pipe: Pipe) -> None:
    script = (
        "sys.stdin.readline()\nfor n in range(0, 20_000, 50):\n    gather(n, n + 50, wide=150)\n    time.sleep(1e-6)"
    )
    both = [start(script, pipe.writing) for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert sorted(numbers(pipe.lines())) == sorted([*range(20_000)] * 2)
    for process in both:
        process.communicate(timeout=30)


def test_a_line_that_is_longer_than_a_pipe_takes_at_once_is_whole(pipe: Pipe) -> None:
    with start(f"gather(0, 1)\ngather(1, 2, wide={3 * ATOMIC})\ngather(2, 4)", pipe.writing) as process:
        lines = pipe.lines()
        process.communicate(timeout=30)
    assert numbers(lines) == [0, 1, 2, 3]


def test_a_fork_writes_its_own_lines_and_none_of_its_parents(tmp_path: Path) -> None:
    script = """
gather(0, 3)
if os.fork() == 0:
    gather(3, 5)
    sys.exit()
os.wait()
gather(5, 7)
"""
    assert sorted(numbers(written(script, tmp_path))) == list(range(7))


def test_lines_keep_their_order_over_threads_and_in_a_handler_of_a_signal(tmp_path: Path) -> None:
    """The handler runs in the midst of whatever the main thread does, lines being taken included."""
    script = """
signal.signal(signal.SIGALRM, lambda *_: log.info("signal"))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
other = threading.Thread(target=gather, args=(10_000, 20_000))
other.start()
gather(0, 10_000)
other.join()
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    lines = written(script, tmp_path)
    found = numbers([line for line in lines if not line.endswith(" signal")])
    assert [n for n in found if n < 10_000] == list(range(10_000))
    assert [n for n in found if n >= 10_000] == list(range(10_000, 20_000))
    assert len(found) < len(lines)
