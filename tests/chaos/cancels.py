"""cancels"""

from pathlib import Path


def run_cancels(folder: Path, count: int) -> list[str]:
    return []
