"""`python -m aqueduct` is the `aqueduct` command."""

import sys

from aqueduct.cli import main

sys.exit(main())
