"""`python -m aqueduct.demo [--host HOST] [--port PORT] [--record]`."""

from __future__ import annotations

import argparse
import sys

from aqueduct.demo.options import Options
from aqueduct.demo.server import serve

_HOW = """options in a model's name, as in demo?tokens=64&token_seconds=0.05. Through `aqueduct up`, which knows only
the models that it lists, the same in the body's member `demo`: {"model": "demo", "demo": "status=500", ...}"""


def main() -> int:
    """Run the demo backend; return the process's exit code."""
    options = "\n".join(f"  {name:20} {field.description}" for name, field in Options.model_fields.items())
    parser = argparse.ArgumentParser(
        prog="python -m aqueduct.demo",
        description="A deterministic OpenAI-compatible server. A model's name chooses how it answers.",
        epilog=f"{_HOW}\n{options}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9000, help="0 takes a free port (default: %(default)s)")
    parser.add_argument("--record", action="store_true", help="keep every request for GET /debug/requests")
    arguments = parser.parse_args()
    try:
        serve(arguments.host, arguments.port, record=arguments.record)
    except (OSError, OverflowError) as error:
        where = f"{arguments.host}:{arguments.port}"
        print(f"demo backend: cannot listen on {where} ({error}). Choose another --host or --port.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
