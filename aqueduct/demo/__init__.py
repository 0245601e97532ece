"""A real, deterministic OpenAI-compatible server: for a first look, for tests and for benchmarks.

A model's name chooses its behaviour: `demo`, or `demo?tokens=64&token_seconds=0.05`; see `options`.
"""

from aqueduct.demo.app import create_app
from aqueduct.demo.server import serve

__all__ = ["create_app", "serve"]
