"""Created tokens made, changed and withdrawn, by a command or over HTTP: checks, the store, and the audit log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import redis

from shared.config_problems import suggestion
from shared.control.actor import Actor
from shared.control.audit import note_now
from shared.control.problems import BadFilter, NoSuch
from shared.debugging import Switched, switch, switched
from shared.groups import GroupStore, StoredGroup
from shared.settings import Settings
from shared.token_settings import GroupSettings, TokenSettings
from shared.tokens import StoredToken, TokenStore, hash_token, new_token


class IsConfigured(ValueError):
    """The token stands in the configuration file, and is changed there."""


class UnknownName(BadFilter):
    """A field names a model or group that there is not."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field
        self.text = text


class TokenDesk:
    """Acts on tokens over a synchronous client, which stays the caller's to close.

    Methods raise IsConfigured, UnknownName, NoSuch, TokenNameTaken, pydantic's ValidationError for values that no token
    can have, and what Redis and the mirror's file raise.
    """

    def __init__(self, client: redis.Redis, settings: Settings, *, knows_models: bool = True) -> None:
        """Take the settings; `knows_models` says whether the models in them are the real ones."""
        self._client = client
        self._settings = settings
        self._knows_models = knows_models
        self.store = TokenStore(client, settings.data_dir)

    def groups_told(self) -> Sequence[dict[str, Any]]:
        """Return every group with the names of its tokens."""
        tokens = (*self._settings.tokens, *self.store.list())
        return [
            {
                "object": "group", **group.model_dump(mode="json"), "static": not isinstance(group, StoredGroup),
                "tokens": [token.name for token in tokens if token.group == group.name],
            }
            for group in self.groups()
        ]  # fmt: skip

    def list(self) -> Sequence[dict[str, Any]]:
        """Return every token, those of the file too, never with a secret."""
        uses = self.store.last_uses()
        return [as_json(record, uses) for record in (*self._settings.tokens, *self.store.list())]

    def groups(self) -> Sequence[GroupSettings]:
        """Return every group; where a created one is called as one of the file, that of the file alone counts."""
        configured = {group.name for group in self._settings.groups}
        created = GroupStore(self._client, self._settings.data_dir).list()
        return [*self._settings.groups, *(group for group in created if group.name not in configured)]

    def create(self, fields: Mapping[str, Any], actor: Actor) -> tuple[str, StoredToken]:
        """Make a token; returns it, which nobody can do again, and its record."""
        name = str(fields.get("name", ""))
        if name in self.static_names():
            raise IsConfigured(f"a token named {name!r} stands in the configuration file; choose another name")
        token = new_token()
        made = {"sha256": hash_token(token), "created_at": datetime.now(UTC), "created_by": actor.by}
        record = StoredToken.model_validate({**fields, **made})
        self._check(fields)
        self.store.create(record)
        note_now(self._client, actor, "token.create", record.name, f"role {record.role}")
        return token, record

    def change(self, name: str, fields: Mapping[str, Any], actor: Actor) -> StoredToken:
        """Give a token other values; what is not named stays as it is."""
        if name in self.static_names():
            raise IsConfigured(f"{name!r} stands in the configuration file; change it there and restart the API")
        TokenSettings.model_validate({"sha256": hash_token(""), **fields, "name": name})  # lists are lists from here on
        self._check(fields)
        record = self.store.change(name, fields)
        if record is None:
            raise NoSuch(self._no_token(name))
        note_now(self._client, actor, "token.set", name, ", ".join(sorted(fields)))
        return record

    def revoke(self, name: str, actor: Actor) -> None:
        """Withdraw a token."""
        if not self.store.revoke(name):
            if name in self.static_names():
                raise IsConfigured(f"{name!r} stands in the configuration file; remove it there and restart the API")
            raise NoSuch(self._no_token(name))
        if any(one.token == name for one in self.debugged()):  # one of the same name may be somebody else's
            switch(self._client, name, 0, 0, actor.by)
        note_now(self._client, actor, "token.revoke", name, "revoked")

    def debug(self, name: str, seconds: int, max_bytes: int, actor: Actor) -> Switched | None:
        """Have a token's prompts and answers logged for so long; 0 s: no more, and None is returned."""
        if name not in self.static_names() and name not in {record.name for record in self.store.list()}:
            raise NoSuch(self._no_token(name))
        made = switch(self._client, name, seconds, max_bytes, actor.by)
        outcome = "off" if made is None else f"on for {seconds} s, {max_bytes} bytes a line"
        note_now(self._client, actor, "token.debug", name, outcome)
        return made

    def debugged(self) -> Sequence[Switched]:
        """Return the tokens whose prompts and answers are logged."""
        return switched(self._client)

    def static_names(self) -> set[str]:
        """Return the names of the file's tokens."""
        return {token.name for token in self._settings.tokens}

    def _no_token(self, name: str) -> str:
        return f"no token is called {name!r}{suggestion(name, [record.name for record in self.store.list()])}"

    def _check(self, fields: Mapping[str, Any]) -> None:
        known = self._settings.public_names()
        for name in fields.get("models", ()):
            if self._knows_models and name != "*" and name not in known:
                raise UnknownName("models", f"no model is called {name!r}{suggestion(name, known)}")
        group = fields.get("group")
        groups = [one.name for one in self.groups()] if group is not None else []
        if group is not None and group not in groups:
            raise UnknownName("group", f"no group is called {group!r}{suggestion(group, groups)}")


def as_json(record: TokenSettings, uses: Mapping[str, datetime]) -> dict[str, Any]:
    """Return a token as it is told: its hash, never itself."""
    used = uses.get(record.sha256)
    return record.model_dump(mode="json", exclude={"webhook"}) | {
        "static": not isinstance(record, StoredToken),
        "last_used_at": used.isoformat() if used is not None else None,
    }
