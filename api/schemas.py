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
