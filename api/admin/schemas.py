"""What `/admin/v1` takes and answers. Unknown members of a body are refused: a mistyped filter would mean all."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.debugging import DEFAULT_BYTES, DEFAULT_SECONDS, LEAST_BYTES, MOST_BYTES, MOST_SECONDS
from shared.lanes import Lane

Name = Annotated[str, Field(max_length=200)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HoldRequest(_Body):
    """What is held or let go."""

    backend: str | None = Field(
        default=None, description="Only this backend: its place from 0 on, or its host and port."
    )


class JobFilterBody(_Body):
    """Which jobs are meant: those that match all that is given."""

    model: Name | None = Field(default=None, description="A model's name or alias.")
    token: Name | None = None
    group: Name | None = None
    lane: Lane | None = None
    state: Literal["waiting", "held", "running"] | None = Field(
        default=None, description="`held`: waits for a model that is held; `waiting` means those too."
    )
    older_than_seconds: Annotated[float, Field(ge=0)] | None = Field(default=None, description="Accepted so long ago.")


class JobListQuery(JobFilterBody):
    """Which jobs are listed."""

    state: Literal["waiting", "held", "running", "ended"] | None = Field(  # type: ignore[assignment]  # one more
        default=None, description="Without it what waits and runs; `ended`: what has ended within the last hour."
    )
    outcome: Literal["succeeded", "refused", "failed"] | None = Field(
        default=None, description="Of what has ended: 200; 4xx and clients that left; 5xx and streams that broke."
    )
    after: str | None = Field(
        default=None, max_length=200, description="`next` of the page before, or its last id while that waits or runs."
    )
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class BatchListQuery(_Body):
    """Which batches are listed."""

    state: Literal["open", "ended", "all"] = "open"
    token: Name | None = None
    after: str | None = Field(default=None, max_length=200, description="The last id of the page before.")
    limit: Annotated[int, Field(ge=1, le=200)] = 100


class CancelJobsRequest(JobFilterBody):
    """Which jobs are ended."""

    all: bool = Field(default=False, description="Needed where no filter is given.")
    dry_run: bool = Field(default=False, description="Only count them.")


class MoveJobsRequest(JobFilterBody):
    """Which jobs are to wait in another lane."""

    to: Lane
    all: bool = Field(default=False, description="Needed where no filter is given.")
    dry_run: bool = Field(default=False, description="Only count them.")


class MoveJobRequest(_Body):
    """Where a job is to wait."""

    to: Lane


class DebugRequest(_Body):
    """For how long a token's prompts and answers are logged."""

    seconds: Annotated[int, Field(ge=1, le=MOST_SECONDS)] = Field(
        default=DEFAULT_SECONDS, description="From now on; then it ends by itself."
    )
    max_bytes: Annotated[int, Field(ge=LEAST_BYTES, le=MOST_BYTES)] = Field(
        default=DEFAULT_BYTES, description="Of one prompt or answer in a line of the log; the rest is left out."
    )


class AdminBackend(BaseModel):
    """One backend of a model."""

    place: int = Field(description="In the model's list, from 0 on.")
    host: str
    state: Literal["active", "held"]


class AdminModel(BaseModel):
    """A model as operators see it."""

    object: Literal["model"] = "model"
    id: str
    state: Literal["active", "paused", "draining", "retired"] = Field(description="What an operator has set.")
    held: str | None = Field(description="Why nothing of it is started: `paused`, `starting`, `backend`; null: it is.")
    waiting: dict[str, int] = Field(description="Requests by lane.")
    running: int
    concurrency: int = Field(description="Slots over all workers, at most.")
    live_workers: int
    oldest_wait_seconds: float
    ends_per_minute: int
    backends: list[AdminBackend]


class Demand(BaseModel):
    """How much there is to do for a model's workers, as one number that an autoscaler reads."""

    object: Literal["demand"] = "demand"
    model: str
    jobs: int = Field(
        description="What runs, and what waits and could run now had it a worker: at most `concurrency`. At least 1 "
        "while a batch of the model is open, or where no worker is left to find out of which one it is; of a paused "
        "model only what runs."
    )


class HeldAnswer(BaseModel):
    """What became of an action on a model or a backend."""

    object: Literal["model.action"] = "model.action"
    model: str
    backend: int | None
    before: str
    now: str
    running: int
    waiting: int


class Outcomes(BaseModel):
    """What became of an action on jobs."""

    object: Literal["job.action"] = "job.action"
    dry_run: bool
    matched: int
    outcomes: dict[str, int] = Field(description="How often each: cancelled, moved, had ended, runs already, unknown.")


class JobPage(BaseModel):
    """Some jobs. A page may be short, or empty, and more may follow: `next` is what `after` takes then."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    has_more: bool
    next: str | None
    looked: int = Field(description="How many jobs were looked at for this page: 2,000 at most.")
    waiting: int | None = Field(description="How many wait in the models and the lane that the filter names.")


class Listing(BaseModel):
    """A list. `has_more`: ask again with `after` and the last one's id."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    has_more: bool = False


class ModelListing(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[AdminModel]
