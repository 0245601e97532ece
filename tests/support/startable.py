"""`Startable`: what starts and stops processes can be used in a `with` block, so that no test leaves one behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Startable(ABC):
    """Started when a `with` block begins, stopped when it ends, also when it does not start at all."""

    @abstractmethod
    def start(self) -> object:
        """Start it and wait until it is of use."""

    @abstractmethod
    def stop(self) -> object:
        """End it; safe to call twice, and before `start`."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
