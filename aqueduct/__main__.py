"""`python -m aqueduct` is the `aqueduct` command."""

from aqueduct.cli import run

run()
