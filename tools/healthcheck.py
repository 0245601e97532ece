"""A container's health as exit status: `healthcheck.py URL` (it answers 200), `… worker MODEL`, `… alive MODEL`.

`worker`: a worker of the model lives on this host, by its heartbeat in Redis. `alive`: the same, but a Redis that does
not answer is not the worker's fault, so that nobody ends workers while it is away.
"""

from __future__ import annotations

import os
import re
import sys
import urllib.request

TIMEOUT_SECONDS = 3
HEARTBEAT_SECONDS = 15


def main(arguments: list[str]) -> int:
    """Look once; says what is wrong."""
    try:
        if arguments[0] in ("worker", "alive"):
            healthy = _worker_lives(arguments[1], is_forgiving=arguments[0] == "alive")
        else:
            healthy = _answers(arguments[0])
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0 if healthy else 1


def _answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - the URL is the operator's
        return bool(answer.status == 200)


def _worker_lives(model: str, *, is_forgiving: bool) -> bool:
    """Tell whether a worker of the model on this host sent a heartbeat lately, by Redis's clock."""
    import redis  # noqa: PLC0415 - only where the package is installed

    from shared import keys  # noqa: PLC0415
    from shared.redis_sync import connect  # noqa: PLC0415

    try:
        with connect(os.environ["AQUEDUCT_REDIS_URL"]) as client:
            now_seconds, _ = client.time()
            oldest_ms = (now_seconds - HEARTBEAT_SECONDS) * 1000
            names = client.zrangebyscore(keys.workers(model), oldest_ms, "+inf")
    except redis.RedisError:
        if is_forgiving:
            return True
        raise
    # A name is the host's, the process's number and a random part (`workers/runner.py`).
    ours = re.compile(re.escape(os.uname().nodename) + r"-\d+-[0-9a-f]+")
    return any(ours.fullmatch(name.decode() if isinstance(name, bytes) else name) for name in names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
