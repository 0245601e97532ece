"""The version of this installation, for `--version`, logs and `/healthz`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _version() -> str:
    try:
        return version("aqueduct-gateway")
    except PackageNotFoundError:  # run from a tree that is not installed
        return "0+unknown"


VERSION = _version()
