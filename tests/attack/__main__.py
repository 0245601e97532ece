"""`python -m tests.attack`: hostile inputs from clients and backends, a table at the end. A failure: exit status 1."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.attack import backends, clients, flower, keys, machine, secrets, stored, waiting
from tests.attack.stack import running
from tests.attack.suite import MIB, Suite

ATTACKS = (clients, waiting, keys, stored, backends, flower, machine, secrets)
"""Each yields its groups of checks; what is said of logs comes last."""


def attack(folder: Path, *, short: bool) -> Suite:
    """Start a stack, attack it, stop it; returns what came of it."""
    with running(folder, most_bytes=(6 if short else 60) * MIB) as stack:
        suite = Suite(stack, short=short)
        suite.undisturbed()
        for one in ATTACKS:
            for group in one.groups(suite):
                suite.run(group)
    return suite


def main() -> int:
    """Run, print the table, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--short", action="store_true", help="6 MB of endless things in place of 60, smaller crowds")
    with tempfile.TemporaryDirectory(prefix="aqueduct-attack-") as made:
        found = attack(Path(made), short=parser.parse_args().short)
    print("| attacks | checks | failed | seconds |\n| --- | --- | --- | --- |")
    for name, checks, failed, seconds in found.rows:
        print(f"| {name} | {checks} | {failed} | {seconds:.1f} |")
    for failure in found.failures:
        print(json.dumps(failure)[1:-1])  # what an attack said is no word to this terminal
    print(f"{sum(row[1] for row in found.rows)} checks, {len(found.failures)} failed")
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
