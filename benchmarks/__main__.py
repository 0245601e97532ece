"""`python -m benchmarks`: start the gateway over a fast fake backend, measure, print tables, stop everything."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import lone_network, peers
from benchmarks.processes import ROOT, BenchmarkError
from benchmarks.profile import profiled
from benchmarks.runner import Runner
from benchmarks.scenarios import ON_DEMAND, SCENARIOS
from benchmarks.stack import Stack
from benchmarks.versus import known_loads, versus

FOLDER = ROOT / ".bench"
VERSIONS = ("uvicorn", "uvloop", "httptools", "fastapi", "celery", "kombu", "redis", "hiredis", "aiohttp", "pydantic")


def main() -> int:
    """Run the chosen scenarios; 1 when any answer was wrong."""
    args = _parser().parse_args()
    if args.against:
        return _against(args)
    names = args.only.split(",") if args.only else [name for name in SCENARIOS if name not in ON_DEMAND]
    chosen = args.peer.split(",") if args.peer else []
    for option, given, known in (("--only", names, SCENARIOS), ("--peer", chosen, peers.PEERS)):
        if unknown := [name for name in given if name not in known]:
            print(f"{option}: no {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
            return 2
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    seconds = args.seconds or (1.5 if args.quick else 3.0)
    data: dict[str, Any] = {}
    try:
        versions = peers.install(chosen, FOLDER)
        if any(peers.PEERS[name].everywhere for name in chosen):
            lone_network.enter()
        with Stack(FOLDER / "run") as stack:
            stack.start_gateway()
            peers.start(chosen, stack, FOLDER)
            data["machine"] = {**_machine(stack), **versions}
            print("  ".join(f"{key} {value}" for key, value in data["machine"].items()), flush=True)
            run = Runner(stack, rounds=2 if args.quick else 5, seconds=seconds, quick=args.quick)
            for name in names:
                begin = time.monotonic()
                if args.profile:
                    _profile(run, name, seconds)
                else:
                    data[name] = SCENARIOS[name](run)
                print(f"({name}: {time.monotonic() - begin:.0f} s)", file=sys.stderr, flush=True)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    if args.json:
        args.json.write_text(json.dumps(data, indent=1, default=str))
    return 1 if _wrong(data) else 0


def _against(args: argparse.Namespace) -> int:
    try:
        data = versus(args.against.resolve(), known_loads(args.only), rounds=1 if args.quick else 4)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    if args.json:
        args.json.write_text(json.dumps(data, indent=1))
    return 0


def _profile(run: Runner, name: str, seconds: float) -> None:
    target = run.stack.target("aqueduct")
    assert target is not None
    loads: dict[str, dict[str, Any]] = {
        "plain": {"operation": "plain", "model": "bench", "clients": 64},
        "streams": {"operation": "streams", "model": "bench", "clients": 64, "tokens": 64},
        "paced": {"operation": "streams", "model": "bench-20", "clients": 500, "tokens": 60, "ramp_seconds": 3},
    }
    if name not in loads:
        print(f"--profile knows {', '.join(loads)}, not {name}")
        return
    length = max(seconds, 5)
    print(f"\n=== profile of {name}")
    profiled(
        lambda: run.once(target, seconds=length + 1, warmup_seconds=1, **loads[name]),
        {f"{part}-{pid}": pid for part in ("api", "worker") for pid in run.stack.meter.pids(part)},
        run.stack.folder, seconds=length,
    )  # fmt: skip


def _machine(stack: Stack) -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "redis-server": stack.redis_version,
        **{f"{name}-client" if name == "redis" else name: version for name, version in versions.items()},
    }


def _wrong(data: Any) -> bool:
    """Tell whether any of the gateway's rows has errors."""
    if isinstance(data, dict):
        if data.get("target") == "aqueduct" and data.get("errors"):
            return True
        return any(map(_wrong, data.values()))
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter windows")
    parser.add_argument("--only", metavar="NAME,…", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--peer",
        metavar="NAME,…",
        help=f"measure these gateways in the same run, of {', '.join(peers.PEERS)}; installed into .bench/ at first",
    )
    parser.add_argument(
        "--against", type=Path, metavar="TREE", help="compare with another installed tree of this project, in turns"
    )
    parser.add_argument("--seconds", type=float, help="length of a measured window")
    parser.add_argument(
        "--profile", action="store_true", help="sample API and worker with py-spy under plain, streams or paced"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
