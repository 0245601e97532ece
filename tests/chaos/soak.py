"""soak"""

from pathlib import Path


def run_soak(folder: Path, count: int) -> list[str]:
    return []
