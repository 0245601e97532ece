"""What the gateway itself answers: errors and models. The completions' shapes are the OpenAI SDK's own types."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ErrorObject(BaseModel):
    """Why a request failed; all four members are always there."""

    model_config = ConfigDict(extra="forbid")

    message: str
    type: str
    param: str | None = Field(description="The path of the parameter at fault, such as messages[0].content.")
    code: str | None = Field(description="A stable name for the failure.")


class ErrorResponse(BaseModel):
    """Every error answer."""

    model_config = ConfigDict(extra="forbid")

    error: ErrorObject


class Model(BaseModel):
    """A model the caller may use."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Unix time in seconds.")
    owned_by: str


class ModelList(BaseModel):
    """The models the caller may use."""

    object: Literal["list"]
    data: list[Model]


class Timeline(BaseModel):
    """When a request came from one state to the next, in Unix seconds with fractions; null where it has not yet."""

    accepted: float
    taken: float | None = Field(description="By a worker; the last one, where several tried.")
    first_token: float | None = Field(description="Of a stream; null for whole answers.")
    ended: float | None


class RequestStatus(BaseModel):
    """Where one of the caller's requests stands."""

    id: str
    object: Literal["request"]
    model: str = Field(description="The model's own name, also where the request used an alias.")
    state: Literal["waiting", "running", "ended"]
    lane: str
    position: int | None = Field(description="How many requests go before it; null where it does not wait.")
    estimated_wait_ms: int | None = Field(description="How long it waits yet; null where it does not wait.")
    held: str | None = Field(
        description="Why it waits: `room` (all slots are busy), `paused` by an operator, `starting`, `backend`; null "
        "where it does not wait."
    )
    attempts: int = Field(description="How many workers have taken it.")
    timeline: Timeline
