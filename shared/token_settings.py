"""Who may do what: tokens, and the groups that tokens belong to, as frozen pydantic models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, AwareDatetime, Field

from shared.lanes import LANES, Lane
from shared.limit_settings import LimitSettings
from shared.roles import Role
from shared.settings_section import Section
from shared.webhook_settings import WebhookSettings

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.@-]+$")]

NO_GROUP = ("-", "none")
"""What stands where there is no group: in usage, and at the command line."""


def _is_a_group(name: str) -> str:
    if name in NO_GROUP:
        raise ValueError(f"must be another name: {name!r} says that there is no group")
    return name


GroupName = Annotated[Name, AfterValidator(_is_a_group)]


class _NamedSettings(Section):
    name: Name
    models: tuple[str, ...] = Field(default=("*",), description="Model names or aliases it may use; `*` is all.")
    weight: Annotated[float, Field(ge=0.001, le=1000)] = Field(default=1, description="Its share inside a lane.")


class SubjectSettings(LimitSettings, _NamedSettings):
    """What is said of a token and of a group alike: what it may use, its share, and its limits."""

    def names_model(self, model_name: str, names: Mapping[str, str]) -> bool:
        """Whether `models` has this name or alias; `names` maps each to the model's own. Not whether there is one."""
        if "*" in self.models or model_name in self.models:
            return True
        wanted = names.get(model_name)
        return wanted is not None and any(names.get(name) == wanted for name in self.models)


class GroupSettings(SubjectSettings):
    """Tokens that share: a team, or a project. Its limits hold for all of them together."""

    name: GroupName = Field(description="Its name in tokens' `group`, logs and Flower.")
    models: tuple[str, ...] = Field(
        default=("*",), description="Model names or aliases its tokens may use, as far as their own `models` allow."
    )
    lane: Lane = Field(default="priority", description="The highest lane that requests of its tokens may use.")
    weight: Annotated[float, Field(ge=0.001, le=1000)] = Field(
        default=1, description="Its share inside a lane, however many tokens it has; against other groups and tokens."
    )


class TokenSettings(SubjectSettings):
    """One bearer token: who it is and what it may do."""

    name: Name = Field(description="Whose token it is; the tenant in logs, Flower and fair sharing.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="SHA-256 of the bearer token, in hex.")
    group: GroupName | None = Field(default=None, description="The group it belongs to, by name; default: none.")
    lane: Lane = Field(default="default", description="The lane its requests take.")
    weight: Annotated[float, Field(ge=0.001, le=1000)] = Field(
        default=1, description="Its share inside a lane: of its group's, where it has one."
    )
    role: Role = Field(
        default="user",
        description="`viewer` may read under `/admin/v1`, `operator` may change what runs there too.",
    )
    expires_at: AwareDatetime | None = Field(default=None, description="ISO 8601 with a zone; past it: 401.")
    max_open_batches: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Batches that have not ended; past it: 429 `too_many_open_batches`. 0: none at all."
    )
    max_enqueued_batch_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Prompt tokens (bytes of input ÷ 4) of its batches that have not ended; a batch past it fails with "
        "`token_limit_exceeded`.",
    )
    max_stored_bytes: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Bytes of its files and uploads; an upload past it: 413 `storage_limit_exceeded`."
    )

    in_group: ClassVar[GroupSettings | None] = None
    """The settings of its group, in what `within` returns; not a setting."""

    def within(self, groups: Mapping[str, GroupSettings]) -> Self:
        """Return this token as a member of its group: it takes no higher lane than the group may.

        As it is where it names none, and where its group is gone.
        """
        group = groups.get(self.group) if self.group is not None else None
        if group is None:
            return self
        lane = max(self.lane, group.lane, key=LANES.index)
        return self.model_copy(update={"in_group": group, "lane": lane})

    def may_use(self, model_name: str, names: Mapping[str, str]) -> bool:
        """Whether it may use the model of this name or alias: by its own `models`, and by its group's."""
        return self.names_model(model_name, names) and (
            self.in_group is None or self.in_group.names_model(model_name, names)
        )

    @property
    def has_lost_group(self) -> bool:
        """Whether its group is gone: it was created in one that the configuration has no more, or that was deleted."""
        return self.group is not None and self.in_group is None

    @property
    def subjects(self) -> tuple[SubjectSettings, ...]:
        """Whose limits hold for its requests: its own, and its group's."""
        return (self,) if self.in_group is None else (self, self.in_group)


class ConfiguredToken(TokenSettings):
    """A token of the configuration file: it may have what is never kept in Redis."""

    webhook: WebhookSettings | None = None
