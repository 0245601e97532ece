"""What a token's owner may do beside sending requests: look at everybody's, or change them."""

from __future__ import annotations

from typing import Final, Literal

Role = Literal["user", "viewer", "operator"]
ROLES: Final[tuple[Role, ...]] = ("user", "viewer", "operator")
"""Each may do what those before it may."""


def is_allowed(role: Role, needed: Role) -> bool:
    """Whether a token of this role may do what needs the other."""
    return ROLES.index(role) >= ROLES.index(needed)
