"""OpenAI's batch object as OpenAPI describes it, and the request that makes one."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from shared.errors import InvalidRequest
from shared.kinds import KINDS
from shared.kinds.common.refusals import check

ENDPOINTS = tuple(f"/v1{kind.path}" for kind in KINDS.values())

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(fail_fast=True, max_length=16),
]


class ExpiresAfter(TypedDict):
    """How long a file is kept, from its own creation."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class CreateBatchRequest(TypedDict):
    """What a batch is made of."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    input_file_id: Annotated[str, Field(min_length=1, max_length=200)]
    endpoint: Annotated[str, Field(json_schema_extra={"enum": list(ENDPOINTS)})]
    completion_window: Annotated[str, Field(max_length=16, description="24h, or Nm, Nh, Nd up to 7d.")]
    metadata: NotRequired[Metadata | None]
    output_expires_after: NotRequired[ExpiresAfter | None]


CREATE: TypeAdapter[CreateBatchRequest] = TypeAdapter(CreateBatchRequest)


def read_create(body: dict[str, Any]) -> CreateBatchRequest:
    """Return the request; raises InvalidRequest that names the member at fault."""
    unknown = sorted(body.keys() - CreateBatchRequest.__annotations__.keys())
    if unknown:
        name = unknown[0][:64]
        raise InvalidRequest(f"Unknown parameter: '{name}'. Leave it out.", param=name, code="unknown_parameter")
    check(CREATE, body, ())
    request: CreateBatchRequest = body  # type: ignore[assignment]
    if request["endpoint"] not in ENDPOINTS:
        raise InvalidRequest(
            f"Invalid 'endpoint'. Supported values are: {', '.join(ENDPOINTS)}.", param="endpoint", code="invalid_value"
        )
    return request


class BatchError(BaseModel):
    """A fault of the input file."""

    code: str | None
    message: str | None
    param: str | None
    line: int | None


class BatchErrors(BaseModel):
    """Faults of the input file, at most 100."""

    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(BaseModel):
    """How many lines there are, and how many have ended either way."""

    total: int
    completed: int
    failed: int


class InputTokensDetails(BaseModel):
    cached_tokens: int


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int


class BatchUsage(BaseModel):
    """Tokens of all lines that were answered."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Batch(BaseModel):
    """A batch; times are Unix seconds, and null is what has not happened."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage | None
    metadata: dict[str, str] | None


class BatchList(BaseModel):
    """A page of batches, the newest first."""

    object: Literal["list"]
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
