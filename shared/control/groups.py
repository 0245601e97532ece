"""Created groups made, changed and deleted, by a command or on a page: checks, the store, and the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import redis

from shared.config_problems import suggestion
from shared.control.actor import Actor
from shared.control.audit import note_now
from shared.control.problems import NoSuch
from shared.control.tokens import IsConfigured, UnknownName
from shared.groups import GroupStore, StoredGroup
from shared.settings import Settings
from shared.token_settings import GroupSettings


class GroupDesk:
    """Acts on groups over a synchronous client, which stays the caller's to close.

    Methods raise IsConfigured, UnknownName, NoSuch, GroupNameTaken, GroupInUse, pydantic's ValidationError for values
    that no group can have, and what Redis and the mirror's file raise.
    """

    def __init__(self, client: redis.Redis, settings: Settings, *, knows_models: bool = True) -> None:
        """Take the settings; `knows_models` says whether the models in them are the real ones."""
        self._client = client
        self._settings = settings
        self._knows_models = knows_models
        self.store = GroupStore(client, settings.data_dir)

    def create(self, fields: Mapping[str, Any], actor: Actor) -> StoredGroup:
        """Make a group."""
        name = str(fields.get("name", ""))
        if self._is_configured(name):
            raise IsConfigured(f"a group named {name!r} stands in the configuration file; choose another name")
        made = {"created_at": datetime.now(UTC), "created_by": actor.by}
        record = StoredGroup.model_validate({**fields, **made})
        self._check(fields)
        self.store.create(record)
        note_now(self._client, actor, "group.create", record.name, "created")
        return record

    def change(self, name: str, fields: Mapping[str, Any], actor: Actor) -> StoredGroup:
        """Give a group other values; what is not named stays as it is."""
        if self._is_configured(name):
            raise IsConfigured(f"{name!r} stands in the configuration file; change it there and run `aqueduct reload`")
        GroupSettings.model_validate({**fields, "name": name})  # lists are lists from here on
        self._check(fields)
        record = self.store.change(name, fields)
        if record is None:
            raise NoSuch(self._no_group(name))
        note_now(self._client, actor, "group.set", name, ", ".join(sorted(fields)))
        return record

    def delete(self, name: str, actor: Actor) -> None:
        """Remove a group that no created token is in."""
        if self._is_configured(name):
            raise IsConfigured(f"{name!r} stands in the configuration file; remove it there and run `aqueduct reload`")
        if not self.store.delete(name):
            raise NoSuch(self._no_group(name))
        note_now(self._client, actor, "group.delete", name, "deleted")

    def _is_configured(self, name: str) -> bool:
        return any(group.name == name for group in self._settings.groups)

    def _no_group(self, name: str) -> str:
        known = [*self._settings.groups, *self.store.list()]
        return f"no group is called {name!r}{suggestion(name, [group.name for group in known])}"

    def _check(self, fields: Mapping[str, Any]) -> None:
        known = self._settings.public_names()
        for name in fields.get("models", ()):
            if self._knows_models and name != "*" and name not in known:
                raise UnknownName("models", f"no model is called {name!r}{suggestion(name, known)}")
