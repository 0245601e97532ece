"""How usage is counted and kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.settings_section import Section


class UsageSettings(Section):
    """What is counted where jobs end, and for how long the file store keeps it."""

    count: bool = Field(default=True, description="Count what each token uses, in the step that ends a job.")
    keep_days: Annotated[int, Field(ge=1, le=36_500)] = Field(
        default=400,
        description="How long the file store keeps usage. Redis has it by day for 62 days, by hour for 30.",
    )
    roll_seconds: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=120,
        description="Between two copies of what was counted from Redis into the file store: so much is lost at most "
        "where Redis loses everything.",
    )
