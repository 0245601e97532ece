"""The configuration that a process runs by: a snapshot, exchanged as a whole when its file is read again.

Whatever a reload may change is asked of the catalogue at the moment it is needed, or follows it; everything else is
read once, from the settings of the start, and named as needing a restart when it has changed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from shared.config import config_path, load_settings
from shared.settings import ModelSettings, Settings

log = logging.getLogger("aqueduct.catalogue")

LIVE: Final = ("models", "groups", "tokens", "lanes", "tenant_share", "log_level")
"""The settings that a reload changes; the others are a process's own from its start to its end."""
DIGEST_LENGTH: Final = 12


@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration comes from, so that it can be read again; as for `load_settings`."""

    file: Path | None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    resolve_backend_keys: bool | Collection[str] = True
    resolve_flower_password: bool = False
    resolve_webhook_secrets: bool = False

    def read(self) -> tuple[Settings, str]:
        """Return the settings, and the first digits of the file's SHA-256. Raises ConfigError."""
        while True:
            before = self.digest()
            settings = load_settings(
                self.file,
                environ=self.environ,
                resolve_backend_keys=self.resolve_backend_keys,
                resolve_flower_password=self.resolve_flower_password,
                resolve_webhook_secrets=self.resolve_webhook_secrets,
            )
            if self.digest() == before:  # else it was changed meanwhile
                return settings, before

    def digest(self) -> str:
        """Return the first digits of the file's SHA-256, as it is now."""
        file = config_path(self.file, self.environ)
        try:
            return hashlib.sha256(file.read_bytes()).hexdigest()[:DIGEST_LENGTH] if file else ""
        except OSError:
            return ""  # `load_settings` tells of it


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reload has changed. Names only: values may be secret."""

    added: tuple[str, ...] = ()
    """Models."""
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    """Of `LIVE`, beside the models."""
    needs_restart: tuple[str, ...] = ()
    """Settings, as `api.port`, that are in the file otherwise than they run."""

    def told(self) -> dict[str, str]:
        """Return what there is to tell of, for a line of the log."""
        lists = {name: getattr(self, name) for name in self.__slots__}
        return {name: ",".join(names) for name, names in lists.items() if names}


class Catalogue:
    """Models, tokens and what goes with them, as they are now. Changed on the event loop that uses it."""

    __slots__ = ("_followers", "digest", "models", "names", "settings", "source")

    def __init__(self, settings: Settings, source: Source | None = None, digest: str = "") -> None:
        """Take the settings to start with; without a `source` they stay."""
        self.source = source
        self._followers: list[Callable[[], None]] = []
        self.models: Mapping[str, ModelSettings] = {}
        """The models by name, those included that were removed since this process began: what waits and runs ends."""
        self._take(settings, digest)

    @classmethod
    def of(cls, source: Source) -> Catalogue:
        """Return the catalogue of a source. Raises ConfigError."""
        return cls(*_swapped(source))

    def _take(self, settings: Settings, digest: str) -> None:
        self.settings = settings
        self.digest = digest
        self.names: Mapping[str, str] = settings.public_names()
        """Every name that clients may use, and the model that it stands for."""
        self.models = {**self.models, **settings.models}

    def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each exchange, in the order of following."""
        self._followers.append(changed)

    def exchange(self, wanted: Settings, digest: str) -> Changes:
        """Run by these settings from now on, as far as that goes without a restart; returns what has changed."""
        old = self.settings
        live = {name: getattr(wanted, name) for name in LIVE}
        changes = Changes(
            added=tuple(name for name in wanted.models if name not in old.models),
            changed=tuple(name for name, model in wanted.models.items() if old.models.get(name, model) != model),
            removed=tuple(name for name in old.models if name not in wanted.models),
            settings=tuple(name for name in LIVE[1:] if getattr(old, name) != live[name]),
            needs_restart=tuple(_differences(old, wanted, LIVE)),
        )
        self._take(old.model_copy(update=live), digest)
        for changed in self._followers:
            changed()
        return changes


def _swapped(source: Source) -> tuple[Settings, Source, str]:
    settings, digest = source.read()
    return settings, source, digest


def _differences(old: BaseModel, new: BaseModel, without: Collection[str] = (), above: str = "") -> Iterator[str]:
    """Yield the dotted names of the settings in which two sections differ."""
    for name in type(old).model_fields:
        if name in without:
            continue
        one: Any = getattr(old, name)
        other: Any = getattr(new, name)
        if isinstance(one, BaseModel) and isinstance(other, BaseModel):
            yield from _differences(one, other, (), f"{above}{name}.")
        elif one != other:
            yield above + name
