"""What an operator changes in the parameters of requests: the settings, and what a worker makes of them once.

A value counts whole: what is given for a name takes the place of the client's, whatever that one holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import Field, ValidationInfo, field_validator

from shared.settings_section import Section

TOKEN_LIMITS: Final = ("max_tokens", "max_completion_tokens")
"""Two names of one thing; `max_tokens_field` says which of them a backend is sent."""
_OWN: Final = {
    "model": "set model of the backend",
    "messages": "it is the request itself",
    "input": "it is the request itself",
    "prompt": "it is the request itself",
    "stream": "clients choose it; see fold_streams",
    "stream_options": "set stream_options of the backend",
    "n": "clients choose how many answers they want, and pay for them; it may stand in removed",
}
"""What the gateway or the client must decide, and what to do instead."""
_MAX_NAME = 128


class ParameterSettings(Section):
    """Changes to the parameters of each request."""

    defaults: dict[str, Any] | None = Field(
        default=None, description="Parameters for requests that do not give them, as `top_k: 20`."
    )
    forced: dict[str, Any] | None = Field(
        default=None, description="Parameters that are sent whatever the request says."
    )
    removed: tuple[str, ...] = Field(default=(), description="Parameters that are left out, as a backend refuses them.")

    @field_validator("defaults", "forced")
    @classmethod
    def _are_parameters(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return checked_parameters(value)

    @field_validator("forced")
    @classmethod
    def _no_default_is_forced(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        for name in _folded(value or ()) & _folded(info.data.get("defaults") or ()):
            raise ValueError(f"must not hold {name} beside defaults; remove one of the two")
        return value

    @field_validator("removed")
    @classmethod
    def _are_names(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in value:
            if name in _OWN and name != "n":
                raise ValueError(f"must not hold {name}: {_OWN[name]}")
            _check_name(name)
        for other in ("defaults", "forced"):
            for name in _folded(value) & _folded(info.data.get(other) or ()):
                raise ValueError(f"must not hold {name} beside {other}; remove one of the two")
        return value

    @property
    def names(self) -> frozenset[str]:
        """Return every name that stands here."""
        return frozenset({*(self.defaults or ()), *(self.forced or ()), *self.removed})

    def over(self, general: ParameterSettings) -> ParameterSettings:
        """Return these with `general` behind them: of a name that stands here too, only what is said here counts."""
        own = _folded(self.names)

        def left(given: Mapping[str, Any] | None) -> dict[str, Any]:
            return {name: value for name, value in (given or {}).items() if not _folded([name]) & own}

        return ParameterSettings(
            defaults={**left(general.defaults), **(self.defaults or {})} or None,
            forced={**left(general.forced), **(self.forced or {})} or None,
            removed=(*left(dict.fromkeys(general.removed)), *self.removed),
        )


@dataclass(frozen=True, slots=True)
class Changes:
    """`ParameterSettings` as a body wants them: each value as `"name":value`, ready to be sent."""

    defaults: dict[str, bytes] = field(default_factory=dict)
    forced: dict[str, bytes] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    """What of the client's is not sent: removed or forced."""
    names: frozenset[str] = frozenset()
    default_limit: tuple[str, int] | None = None
    """Of the limit of tokens, the name it was given under and its value."""
    forced_limit: tuple[str, int] | None = None
    drops_limit: bool = False


def changes_of(settings: ParameterSettings) -> Changes | None:
    """Return what a body wants of these settings; None where they change nothing."""
    if not settings.names:
        return None
    forced, defaults = settings.forced or {}, settings.defaults or {}
    return Changes(
        defaults={name: _member(name, value) for name, value in defaults.items()},
        forced={name: _member(name, value) for name, value in forced.items()},
        dropped=frozenset({*forced, *settings.removed}),
        names=settings.names,
        default_limit=_limit(defaults),
        forced_limit=_limit(forced),
        drops_limit=any(name in settings.removed for name in TOKEN_LIMITS),
    )


def checked_parameters(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return parameters that may be sent, None for none of them; raises ValueError for others."""
    for name, given in (value or {}).items():
        if name in _OWN:
            raise ValueError(f"must not hold {name}: {_OWN[name]}")
        _check_name(name)
        try:
            _member(name, given)
        except (TypeError, ValueError):
            raise ValueError(f"must give {name} a value that JSON has; put dates in quotes") from None
        if name in TOKEN_LIMITS and (type(given) is not int or given < 1):
            raise ValueError(f"must give {name} a whole number from 1")
    if all(name in (value or ()) for name in TOKEN_LIMITS):
        raise ValueError("must hold one of max_tokens and max_completion_tokens; max_tokens_field says which is sent")
    return value or None


def _check_name(name: str) -> None:
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise ValueError("must have names of parameters, of at most 128 characters")


def _folded(names: Mapping[str, Any] | frozenset[str] | tuple[str, ...] | list[str]) -> set[str]:
    """Return names of which the two of the limit of tokens are one."""
    return {TOKEN_LIMITS[0] if name == TOKEN_LIMITS[1] else name for name in names}


def _member(name: str, value: Any) -> bytes:
    return json.dumps({name: value}, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()[1:-1]


def _limit(given: Mapping[str, Any]) -> tuple[str, int] | None:
    return next(((name, given[name]) for name in TOKEN_LIMITS if name in given), None)
