"""What an operator may have got wrong; the text names what exists."""

from __future__ import annotations


class NoSuch(ValueError):
    """There is no model, backend or job of that name."""


class BadFilter(ValueError):
    """A filter or an action that means nothing; the text names the field and the fix."""
