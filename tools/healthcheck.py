"""A container's health as exit status: `healthcheck.py URL` (it answers 200) or `… worker MODEL` (a worker lives)."""

from __future__ import annotations

import os
import sys
import urllib.request

TIMEOUT_SECONDS = 3
HEARTBEAT_SECONDS = 15


def main(arguments: list[str]) -> int:
    """Look once; says what is wrong."""
    try:
        healthy = _worker_lives(arguments[1]) if arguments[0] == "worker" else _answers(arguments[0])
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0 if healthy else 1


def _answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - the URL is compose.yaml's
        return bool(answer.status == 200)


def _worker_lives(model: str) -> bool:
    """Tell whether any worker of the model sent a heartbeat lately, by Redis's clock."""
    from shared import keys  # noqa: PLC0415 - only where the package is installed
    from shared.redis_sync import connect  # noqa: PLC0415

    with connect(os.environ["AQUEDUCT_REDIS_URL"]) as client:
        now_seconds, _ = client.time()
        newest = client.zrange(keys.workers(model), 0, 0, desc=True, withscores=True)
    return bool(newest) and now_seconds - newest[0][1] / 1000 < HEARTBEAT_SECONDS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
