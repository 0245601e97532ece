"""The settings, as frozen pydantic models: what the YAML file may hold, with ranges and defaults.

How a backend is reached stands in `shared/backend_settings.py`, who may do what in `shared/token_settings.py`.

`shared/config.py` reads them from a file and the environment, and refuses names that stand twice. Nothing else reads
the environment.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from shared.absence_settings import HookSettings
from shared.backend_parameters import ParameterSettings
from shared.backend_settings import BackendSettings
from shared.batch_hours import BatchHours, batch_hours
from shared.batches.window import LONGEST_SECONDS, seconds_of
from shared.concurrency import MOST, Auto, Concurrency
from shared.flower_settings import FlowerSettings
from shared.redis_url import redis_url_problem
from shared.settings_section import Section
from shared.store_url import store_url_problem
from shared.token_settings import ConfiguredToken, GroupSettings
from shared.usage_settings import UsageSettings

RESERVED_FROM: Final = 5
"""With as many places a model keeps one from batch work unless its settings say otherwise: a person finds it free."""


def is_usable_name(name: str) -> bool:
    """Whether a model may be called so: 1 to 256 characters, no blanks and no control characters."""
    return 0 < len(name) <= 256 and not any(ord(c) < 33 or ord(c) == 127 for c in name)


class ModelSettings(Section):
    """One model as clients see it: its capacity, its queue and its backends."""

    aliases: tuple[str, ...] = Field(default=(), description="Further names that clients may use.")
    concurrency: Concurrency = Field(
        default=32,
        description="Running jobs across all workers; `auto`, or `{min: 1, max: 256}`, finds the number by measuring.",
    )
    max_queue: Annotated[int, Field(ge=0)] = Field(
        default=1000, description="Waiting jobs; past it: 429 `queue_full`. The batch lane is counted apart."
    )
    max_queue_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Estimated tokens that may wait."
    )
    max_queue_bytes: Annotated[int, Field(ge=1)] = Field(default=1024**3, description="Bytes of bodies that may wait.")
    max_wait_seconds: Annotated[float, Field(gt=0)] = Field(default=120, description="Past it: 504 `queue_timeout`.")
    timeout_seconds: Annotated[float, Field(gt=0)] = Field(default=600, description="A run's limit.")
    first_token_timeout_seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Limit to a stream's first chunk. Default: `timeout_seconds`."
    )
    stall_timeout_seconds: Annotated[float, Field(gt=0)] = Field(default=120, description="Limit between two reads.")
    batch_reserve: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Slots that batch work never takes, but for its last one. Default: 1 where more than 4 jobs can "
        "run at once, else 0.",
    )
    batch_hours: str | None = Field(
        default=None,
        description="When batch work may begin, as `22:00-06:00 Europe/Vienna`; outside it waits, and what runs ends. "
        "Default: always.",
    )
    preempt_batch_after_ms: Annotated[int, Field(ge=10, le=600_000)] | None = Field(
        default=None,
        description="Once a request of a higher lane has waited so long without a slot, a job of the batch lane that "
        "has published nothing makes room for it and runs again later. Batch work begins only while nobody else waits.",
    )
    default_max_tokens: Annotated[int, Field(ge=1)] = Field(
        default=1024, description="Assumed answer length where the request gives none; only for fair sharing."
    )
    max_attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        default=3,
        description="Backend calls of one run, and runs of a job at most; each worker that was lost takes a call away.",
    )
    extra_parameters: Literal["allow", "drop", "refuse"] = Field(
        default="allow",
        description="What happens to parameters that the OpenAI schema does not know, at any depth. An unknown role, "
        "content part, tool or format cannot be dropped: it is refused.",
    )
    parameter_limits: Literal["openai", "backend"] = Field(
        default="openai",
        description="Who judges limits of OpenAI's that other servers do not share: 4 stop strings, `max_tokens` from "
        "1, empty lists, `top_logprobs` without `logprobs`, images for system and tools, calls without `arguments`; "
        "of completions 5 `logprobs`, of embeddings 2,048 inputs and no empty ones.",
    )
    structured_output: Literal["passthrough", "validate", "retry"] = Field(
        default="passthrough",
        description="What becomes of a plain answer that does not fit the schema in its `response_format`: handed on, "
        "500 `structured_output_mismatch`, or asked for again first. Streams pass unchecked.",
    )
    structured_output_retries: Annotated[int, Field(ge=1, le=10)] = Field(
        default=2, description="With `retry`: how often the model is asked again at most, told what was wrong."
    )
    parameters: ParameterSettings = Field(
        default=ParameterSettings(), description="Changes to requests, whichever backend they go to."
    )
    when_absent: Literal["fail", "hold"] = Field(
        default="fail",
        description="While no backend is there, or no worker, requests fail with 503, or wait for `max_wait_seconds`.",
    )
    wake: HookSettings | None = Field(
        default=None, description="Called where requests wait and no backend is there. Needs `when_absent: hold`."
    )
    sleep: HookSettings | None = Field(default=None, description="Called after `idle_seconds`.")
    idle_seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="After so long without a request, waiting or running, `sleep` is called."
    )
    backends: Annotated[tuple[BackendSettings, ...], Field(min_length=1)]

    @cached_property
    def changed_names(self) -> frozenset[str]:
        """Every parameter that may be changed on the way to one of the backends."""
        return frozenset[str]().union(*(backend.changed_names for backend in self.backends))

    @property
    def places(self) -> int:
        """How many jobs can run at once: `concurrency`, or less where all backends together take less."""
        given = zip(self.autos, self.backends, strict=True)
        caps = [auto.most if auto else backend.concurrency for auto, backend in given]
        return min(self.most, sum(cap for cap in caps if isinstance(cap, int))) if all(caps) else self.most

    @cached_property
    def most(self) -> int:
        """`concurrency`, or the most that `auto` may find."""
        return self.concurrency.most if isinstance(self.concurrency, Auto) else self.concurrency

    @cached_property
    def autos(self) -> tuple[Auto | None, ...]:
        """For each backend the range in which its number is found, None where it is given or has no bound of its own.

        A backend without a `concurrency` of its own has the model's, if that is `auto`.
        """
        given = [self.concurrency if one.concurrency is None else one.concurrency for one in self.backends]
        return tuple(one.at_most(self.most) if isinstance(one, Auto) else None for one in given)

    @cached_property
    def is_auto(self) -> bool:
        """Whether the number of any backend is found by measuring."""
        return any(self.autos)

    def asked(self, places: int) -> int:
        """Return a number of slots as scripts take it: negative where they are to look up what has been found."""
        return -places if self.is_auto else places

    @cached_property
    def hours(self) -> BatchHours | None:
        """`batch_hours`, as they are asked."""
        return batch_hours(self.batch_hours) if self.batch_hours else None

    @cached_property
    def reserve(self) -> int:
        """`batch_reserve`, or its default."""
        if self.batch_reserve is not None:
            return self.batch_reserve
        return 1 if self.places >= RESERVED_FROM else 0

    def kept_from_batch(self, places: int, now: float | None = None) -> int:
        """Return how many of so many slots batch work leaves to others: outside its hours all, else never all.

        Without the time its hours do not count.
        """
        if now is not None and self.hours is not None and not self.hours.are_on(now):
            return places
        return max(0, min(self.reserve, places - 1))

    @field_validator("backends")
    @classmethod
    def _change_what_the_model_changes(
        cls, value: tuple[BackendSettings, ...], info: ValidationInfo
    ) -> tuple[BackendSettings, ...]:
        general = info.data.get("parameters")
        if general is None or not general.names:
            return value
        return tuple(one.under(general) for one in value)

    @field_validator("wake", "sleep")
    @classmethod
    def _is_for_who_waits(cls, value: HookSettings | None, info: ValidationInfo) -> HookSettings | None:
        if value is not None and info.data.get("when_absent") == "fail":
            raise ValueError("is for models with when_absent: hold; set that too, or remove this")
        return value

    @field_validator("idle_seconds")
    @classmethod
    def _has_what_is_called(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("sleep", True) is None:
            raise ValueError("needs sleep beside it, which is called then")
        return value

    @field_validator("batch_hours")
    @classmethod
    def _are_hours(cls, value: str | None) -> str | None:
        if value is not None:
            batch_hours(value)
        return value

    @field_validator("batch_reserve")
    @classmethod
    def _reserve_leaves_room(cls, value: int | None, info: ValidationInfo) -> int | None:
        concurrency = info.data.get("concurrency")
        if value is not None and value >= (concurrency.most if isinstance(concurrency, Auto) else concurrency or MOST):
            raise ValueError(f"must be smaller than concurrency, or batch work never runs (is {value})")
        return value


class ApiSettings(Section):
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8000, description="Port to listen on.")
    max_body_bytes: Annotated[int, Field(ge=1024)] = Field(default=48 * 1024 * 1024, description="Past it: 413.")
    max_header_bytes: Annotated[int, Field(ge=4096)] = Field(
        default=64 * 1024, description="Of one head, and 32 for each header, as HTTP/2 counts. Past it: 431."
    )
    body_timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        default=30, description="Longest silence inside a body."
    )
    body_bytes_per_second: Annotated[int, Field(ge=1)] = Field(
        default=20_000, description="A body may take `body_timeout_seconds` and a second for each so many bytes of it."
    )
    header_timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        default=30, description="Until a new connection's first byte, and from it until a request's head is whole."
    )
    idle_timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        default=75, description="A connection kept open without a request is closed."
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(
        default=10_000, description="Open connections of one process; past it: 503 `too_many_connections`."
    )
    cors_origins: tuple[str, ...] = Field(default=(), description="Browser origins that may call; `*` is any.")
    hold_headers_seconds: Annotated[float, Field(ge=0)] = Field(
        default=10,
        description="How long response headers wait for the first event, so that early failures keep their status.",
    )
    keep_alive_seconds: Annotated[float, Field(gt=0)] = Field(
        default=15, description="Between comments in a silent stream."
    )
    stalled_reader_seconds: Annotated[float, Field(gt=0)] = Field(
        default=60, description="A client that takes nothing of its answer is cut."
    )
    drain_seconds: Annotated[float, Field(ge=0)] = Field(default=30, description="Grace for open streams on SIGTERM.")
    trusted_proxies: tuple[str, ...] = Field(
        default=(), description="Addresses whose X-Forwarded-* headers are believed."
    )


class WorkerSettings(Section):
    slots: Annotated[int, Field(ge=1)] = Field(default=512, description="Jobs that one worker process runs at once.")
    drain_seconds: Annotated[float, Field(ge=0)] = Field(
        default=30, description="Grace for running streams on SIGTERM."
    )
    connect_timeout_seconds: Annotated[float, Field(gt=0)] = Field(default=5, description="To reach a backend.")
    max_answer_bytes: Annotated[int, Field(ge=1024**2, le=256 * 1024**2)] = Field(
        default=32 * 1024**2,
        description="The longest whole answer of a backend; past it: 500 `bad_backend_response`. A stream that the "
        "worker makes one of may be eight times as long.",
    )
    job_events: bool = Field(
        default=True, description="Tell Flower of every job. Off: it shows workers and queues only."
    )


class BatchSettings(Section):
    line_attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        default=6, description="How often a line that fails is run at most, inside of its batch's window."
    )
    group_prefix: bool = Field(
        default=False,
        description="Run lines that begin alike (tools, system prompt, first messages) behind each other, within 2,000 "
        "lines or 4 MB: a backend that caches prefixes then reads each once.",
    )
    merge_identical: bool = Field(
        default=False,
        description="Run lines of one batch that ask the same once while they wait, and give each the answer, where "
        "`temperature` is 0 or a `seed` is given. Usage counts once.",
    )
    shortest_window: str = Field(
        default="1h", description="The smallest `completion_window`: a number with m, h or d, for tests with s."
    )
    max_lines: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=50_000, description="Lines of an input file; past it the batch fails with `too_many_tasks`."
    )
    max_file_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=200 * 1024 * 1024, description="Bytes of an input file; past it: 400 `file_too_large`."
    )

    @field_validator("shortest_window")
    @classmethod
    def _is_a_window(cls, value: str) -> str:
        if not 0 < (seconds_of(value) or 0) <= LONGEST_SECONDS:
            raise ValueError("must be a number with s, m, h or d, of at most 7d, as 1h")
        return value


class StorageSettings(Section):
    url: str | None = Field(
        default=None,
        description="Where files, batches and stored completions are kept: `file:///folder`, `s3://bucket/prefix`, "
        "`gs://…`, `az://…`. Without it there are none; `aqueduct up` keeps them in its data folder.",
    )
    completions_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        default=30, description="How long chat completions made with `store: true` are kept there."
    )

    @field_validator("url")
    @classmethod
    def _is_a_store(cls, value: str | None) -> str | None:
        if not value:
            return None
        if problem := store_url_problem(value):
            raise ValueError(problem)
        return value


class LaneWeights(Section):
    priority: Annotated[int, Field(ge=1)] = Field(default=16, description="Turns, against the other lanes.")
    default: Annotated[int, Field(ge=1)] = Field(default=8, description="Turns, against the other lanes.")
    flex: Annotated[int, Field(ge=1)] = Field(default=2, description="Turns, against the other lanes.")
    batch: Annotated[int, Field(ge=1)] = Field(default=1, description="Turns, against the other lanes.")

    @property
    def text(self) -> str:
        """The weights as scripts take them, in the lanes' order."""
        return f"{self.priority} {self.default} {self.flex} {self.batch}"


class TestSwitches(Section):
    """Only for tests: clocks and deliberate faults. The defaults are what the promises are made of."""

    __test__ = False

    lease_seconds: Annotated[float, Field(gt=0)] = 6
    renew_seconds: Annotated[float, Field(gt=0)] = 2
    sweep_seconds: Annotated[float, Field(gt=0)] = 1
    silence_seconds: Annotated[float, Field(gt=0)] = Field(
        default=1, description="A relay that hears nothing reads the log."
    )
    owner_seconds: Annotated[float, Field(gt=0)] = Field(
        default=8, description="Lifetime of an API process's heartbeat."
    )
    worker_grace_seconds: Annotated[float, Field(gt=0)] = Field(
        default=15, description="Until a model counts as unserved."
    )
    history_seconds: Annotated[float, Field(gt=0)] = Field(
        default=15, description="Between two points of the status page's last hour."
    )
    tell_seconds: Annotated[float, Field(gt=0)] = Field(default=2, description="Between two tellings of what ended.")
    drop_live_events: bool = Field(
        default=False, description="Throw every pub/sub message away; the log alone must do."
    )


class Settings(Section):
    """The whole configuration, frozen; made at the edge and handed down."""

    models: Annotated[dict[str, ModelSettings], Field(min_length=1)]
    groups: tuple[GroupSettings, ...] = ()
    tokens: tuple[ConfiguredToken, ...] = ()
    redis_url: SecretStr | None = Field(
        default=None, description="redis://, rediss://, unix:// or sentinel://…; absent: `up` starts one."
    )
    data_dir: Path = Field(
        default=Path(".aqueduct"), description="Embedded Redis's files and the mirror of created tokens."
    )
    large_body_bytes: Annotated[int, Field(ge=65_536)] = Field(
        default=1024**2, description="Bodies of requests larger than this are large."
    )
    large_bodies: Annotated[int, Field(ge=1)] = Field(
        default=4,
        description="Large bodies that each API process, and each worker process, has in memory at once; further ones "
        "wait, at their clients or in Redis. Of several, no token (API) or model (worker) takes the last place.",
    )
    log_format: Literal["text", "json"] = Field(default="text", description="For people or for programs.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Records below it are left out."
    )
    metrics: bool = Field(
        default=True,
        description="Count what happens, for `/metrics`: open on the machine itself, elsewhere to a token with the "
        "role `viewer`.",
    )
    ui: bool = Field(
        default=True, description="Serve the status page at `/ui`, to tokens with the role `viewer` or `operator`."
    )
    recent_jobs: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=3000,
        description="How many requests that have ended operators can look at, for an hour at most, never their texts: "
        "so many that went well, that were refused and that failed; about 1 KB each in Redis. 0: none.",
    )
    api: ApiSettings = ApiSettings()
    worker: WorkerSettings = WorkerSettings()
    batches: BatchSettings = BatchSettings()
    flower: FlowerSettings = FlowerSettings()
    storage: StorageSettings = StorageSettings()
    usage: UsageSettings = UsageSettings()
    lanes: LaneWeights = Field(default=LaneWeights(), description="How lanes share a model's slots.")
    tenant_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="Part of a room that one tenant may fill."
    )
    testing: TestSwitches = TestSwitches()

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if not value:
            return None
        if problem := redis_url_problem(value.get_secret_value()):
            raise ValueError(problem)
        return value

    def public_names(self) -> dict[str, str]:
        """Return every name a client may use, mapped to the model's own name."""
        return {alias: name for name, model in self.models.items() for alias in (name, *model.aliases)}

    @property
    def redis(self) -> str:
        """The Redis URL; `ValueError` when none was given."""
        if self.redis_url is None:
            raise ValueError("redis_url is not set: give it in the file or as AQUEDUCT_REDIS_URL")
        return self.redis_url.get_secret_value()
