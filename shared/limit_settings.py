"""What somebody may have at most, as settings: of one token, or of all tokens of a group together."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Final

from pydantic import Field

from shared.settings_section import Section

MOST_REQUESTS: Final = 1_000_000_000
MOST_TOKENS: Final = 1_000_000_000_000
"""Numbers up to here, a minute's or a month's, are added without an error."""
MOST_SLOT_SECONDS: Final = 1_000_000_000_000

Requests = Annotated[int, Field(ge=1, le=MOST_REQUESTS)]
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
SlotSeconds = Annotated[int, Field(ge=1, le=MOST_SLOT_SECONDS)]


class LimitSettings(Section):
    """Limits; what is left out is unlimited, and counted nowhere."""

    requests_per_minute: Requests | None = Field(
        default=None, description="In any 60 seconds, all at once allowed. Past it: 429 `rate_limit_exceeded`."
    )
    tokens_per_minute: Tokens | None = Field(
        default=None,
        description="Of prompts and answers, in any 60 seconds: estimated when a request is let in, and put right when "
        "it has ended. Past it: 429 `rate_limit_exceeded`.",
    )
    concurrent_jobs: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Waiting and running together. Past it: 429 `rate_limit_exceeded`."
    )
    waiting_jobs: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Waiting for a slot. Past it: 429 `rate_limit_exceeded`."
    )
    tokens_per_day: Tokens | None = Field(
        default=None,
        description="Of prompts and answers, batches too, from midnight to midnight UTC. Once they are used: 429 "
        "`insufficient_quota`.",
    )
    tokens_per_month: Tokens | None = Field(default=None, description="The same for a calendar month.")
    slot_seconds_per_day: SlotSeconds | None = Field(
        default=None,
        description="For how long its jobs may hold slots, added up, batches too, from midnight to midnight UTC. Once "
        "they are used: 429 `insufficient_quota`.",
    )
    slot_seconds_per_month: SlotSeconds | None = Field(default=None, description="The same for a calendar month.")

    @cached_property
    def limit_numbers(self) -> tuple[int, ...]:
        """The limits as scripts take them, 0 for none, slot time in ms; empty where none is set."""
        numbers = (
            *(self.requests_per_minute or 0, self.tokens_per_minute or 0),
            *(self.concurrent_jobs or 0, self.waiting_jobs or 0),
            *(self.tokens_per_day or 0, self.tokens_per_month or 0),
            *((self.slot_seconds_per_day or 0) * 1000, (self.slot_seconds_per_month or 0) * 1000),
        )
        return numbers if any(numbers) else ()
