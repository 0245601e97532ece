"""`python -m tests.screenshots`: a lively gateway, and pictures of its status page in `docs/images/`. A fault: 1."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.screenshots.demo import OPERATOR, Traffic, demo_system, fill_usage, fill_week, stretch_history
from tests.screenshots.pictures import MOST_BYTES, take_pictures
from tests.support.browser import Browser
from tests.support.processes import ROOT, RedisServer
from tests.support.system import DemoBackend

AFTER_SECONDS = 20
"""Until the load is back, and what is counted from then on fills the last minutes."""
IMAGES = ROOT / "docs" / "images"


def main() -> int:
    """Make the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=__doc__)
    parser.add_argument("--seconds", type=float, default=100, help="of load before the first picture (%(default)s)")
    parser.add_argument("--into", type=Path, default=IMAGES, help="folder of the pictures (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aqueduct-pictures-") as made:
        folder = Path(made)
        fill_usage(folder / "store")
        with (
            RedisServer(folder / "redis") as redis,
            DemoBackend(folder / "backend") as backend,
            demo_system(folder, redis.url, backend.url) as system,
            Browser() as browser,
            Traffic(system),
        ):
            fill_week(system)
            time.sleep(arguments.seconds)
            stretch_history(system, redis, arguments.seconds)
            time.sleep(AFTER_SECONDS)
            paths = take_pictures(system, browser, system.tokens[OPERATOR], arguments.into)
    large = [path.name for path in paths if path.stat().st_size > MOST_BYTES]
    for path in paths:
        print(f"{path.stat().st_size / 1000:6.0f} KB  {path}")
    if large:
        print(f"error: larger than {MOST_BYTES // 1000} KB: {', '.join(large)}", file=sys.stderr)
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main())
