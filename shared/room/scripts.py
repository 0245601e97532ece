"""What each script takes and answers: the one place where arguments are counted. The rules are the Lua files'."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, cast

from shared.redis import Argument, Reply
from shared.script_arguments import Flag
from shared.scripting import NoRow, Script


class AdmitArguments(NamedTuple):
    """One job that an API process wants accepted."""

    id: str
    model: str
    lane: str
    tenant: str
    weight: float
    cost: float
    body: bytes
    """Empty where it is stored apart."""
    apart: Flag
    """The body is large and was stored by itself."""
    size: int
    """Bytes of all that the job brings: body and spec."""
    spec: bytes
    owner: str
    must_finish: Flag
    ask: Flag
    """Only say whether it would be accepted."""
    max_wait_ms: int
    not_after: int
    """Redis's clock; later the caller has been told 503."""
    promised_to: str
    """Token and body, under which a place is promised where a limit a minute refuses; empty without such limits."""
    is_retry: Flag
    """Its client says that it has tried before."""
    idempotency: str
    """Name of the key, hashed with its token; empty for none."""
    body_hash: str
    sink: str
    """Who takes its end: a batch's feeder, or what stores answers; empty for none."""
    at_once: Flag
    """Not let in where it would wait for a slot."""
    group: str = ""
    """The token's group; empty for none."""
    group_weight: float = 0
    """0 for none."""
    kind: str = "chat.completions"
    facts: bytes = b""
    """As `shared/room/facts.py` makes them of all this."""


class AdmitLimits(NamedTuple):
    """What a model's settings say at each admission."""

    life_ms: int
    max_queue: int
    max_queue_tokens: int
    max_queue_bytes: int
    tenant_share: int
    concurrency: int
    batch_reserve: int
    grace_ms: int
    queue: str
    ticket: bytes
    max_tries: int
    people_first: Flag
    """Batch work is handed back for who waits behind it: `preempt_batch_after_ms`."""
    weights_text: str
    """The lanes' weights, separated by blanks."""
    uncounted: Flag = ""
    """Its usage is not counted."""


class LimitRow(NamedTuple):
    """What one subject of a job may have at most: its token, or that token's group. 0 is no limit."""

    subject: str
    """A token's name, or `group:` and a group's; no name has a colon."""
    requests_per_minute: int
    tokens_per_minute: int
    concurrent_jobs: int
    waiting_jobs: int
    tokens_per_day: int
    tokens_per_month: int
    slot_ms_per_day: int
    slot_ms_per_month: int


class AdmitReply(NamedTuple):
    """The verdict: ok, join, reused, full, share, busy, no_worker, retired, late or again; or which limit refuses.

    Limits are rate, large (for any minute), jobs, waits and budget.
    """

    verdict: bytes
    number: int
    """ok: jobs ahead. A refusal: milliseconds until a try may succeed; 0 where none will."""
    now: int
    rates: list[int]
    """Limit (0: none), remaining, ms until all is free again: of requests and of tokens a minute. Empty: no limits."""
    breach: list[bytes | int]
    """Of a refusal by a limit: subject, the limit's name, the limit, what is used of it, what is wanted."""
    joined: bytes
    """The id of the job that the idempotency key stands for."""
    before: int
    """Jobs that go before it, where it must wait; -1 where a free slot takes it at once."""
    line: list[Any]
    """How fast the line moves, as `line_now` tells it, for who must wait."""


class TakeArguments(NamedTuple):
    """One worker's free slots for one model."""

    model: str
    nonce: str
    free_slots: int
    mine: int
    """How many jobs of the model this worker runs already."""
    surplus: Flag
    """Take more than this worker's fair part."""
    concurrency: int
    batch_reserve: int
    lease_ms: int
    timeout_wire: bytes
    weight_priority: int
    weight_default: int
    weight_flex: int
    weight_batch: int
    awake_ms: int
    bulk_bytes: int
    """How much in bodies of their own this worker can fetch now."""
    queue: str
    ticket: bytes
    people_first: Flag
    """No batch work begins while anybody of a higher lane waits."""
    off: str
    """The backends that the caller knows to be held by operators, as the room names them."""


class MakeRoomArguments(NamedTuple):
    """A model whose batch work is handed back for who has waited too long."""

    model: str
    concurrency: int
    patience_ms: int
    queue: str
    ticket: bytes


class AppendArguments(NamedTuple):
    """Nothing that all jobs of a call share."""


class AppendRow(NamedTuple):
    """Events of one job."""

    id: str
    attempt: bytes
    number: int
    ending: bytes
    """The job's end as JSON where the last of these events ends it, else empty."""
    payloads: tuple[bytes, ...]


class ReleaseArguments(NamedTuple):
    """A worker that gives jobs up, and what tells the others of it."""

    worker: str
    queue: str
    ticket: bytes


class ReleaseRow(NamedTuple):
    """A job given up: how is end, away, again, hold or fail."""

    id: str
    attempt: bytes
    how: str
    wire: bytes
    ending: bytes = b""
    """Of a cancelled job: what its worker knows of its usage, an `End` as JSON; else empty."""


class RenewArguments(NamedTuple):
    """A worker process, and the models it takes jobs of, a line each."""

    worker: str
    process: str
    lease_ms: int
    models: str


class HeldRow(NamedTuple):
    """A job that a worker holds."""

    id: str
    attempt: bytes


class OwnerArguments(NamedTuple):
    """An API process."""

    owner: str


class ForgetArguments(NamedTuple):
    """An API process, and of how many jobs the records stay."""

    owner: str
    keep: int


class StandArguments(NamedTuple):
    """A model whose waiting jobs are asked for."""

    model: str
    concurrency: int
    batch_reserve: int
    weights_text: str


class StandRow(NamedTuple):
    """A job that may wait."""

    id: str
    lane: str


class LookArguments(NamedTuple):
    """A job."""

    id: str


class IdRow(NamedTuple):
    """A job."""

    id: str


class PeekArguments(NamedTuple):
    """How much a reading may bring."""

    budget_bytes: int


class PeekRow(NamedTuple):
    """A job, and the number of the event that its reader wants next."""

    id: str
    number: int


class CapacityArguments(NamedTuple):
    """What one worker measured of a model of `concurrency: auto`, and what it found if it is the one that decides."""

    model: str
    worker: str
    lease_ms: int
    report: bytes
    """Empty for nothing new."""
    state: bytes
    """What was found, for all; empty where nothing has changed."""
    places: int


class BeatArguments(NamedTuple):
    """An API process's heartbeat, or its last one."""

    owner: str
    process: str
    life_ms: int
    gone: Flag


class LeaveArguments(NamedTuple):
    """A worker process that takes no more."""

    worker: str
    process: str


class ModelRow(NamedTuple):
    """A model."""

    model: str


class HelloArguments(NamedTuple):
    """A process that begins, or has met another Redis server."""

    process: str
    protocol: str
    run_id: str
    knew_another: Flag
    lease_ms: int


class SweepArguments(NamedTuple):
    """The recovery clock's numbers, and the errors that it tells."""

    sweeper: str
    period_ms: int
    lease_ms: int
    grace_ms: int
    timeout_wire: bytes
    lost_wire: bytes
    exhausted_wire: bytes
    no_worker_wire: bytes
    not_started_wire: bytes


class SweepRow(NamedTuple):
    """A model to sweep."""

    model: str
    concurrency: int
    max_wait_ms: int
    queue: str
    ticket: bytes
    waits_unserved: Flag
    """Its jobs wait without a worker too: `when_absent: hold`."""
    backends: str
    """Keys of all its backends, separated by blanks."""


class FeederArguments(NamedTuple):
    """A batch, and the process that carries it."""

    batch: str
    feeder: str
    lease_ms: int


class ResultsArguments(NamedTuple):
    """Which of a batch's ended lines are wanted, and how much of them at most."""

    batch: str
    start: int
    most: int
    budget_bytes: int


class BatchArguments(NamedTuple):
    """A batch, or another sink."""

    batch: str
    keep_ms: int
    """How long readers may still be at what is acknowledged."""


class HearArguments(NamedTuple):
    """A job whose answer is stored, who wants to hear of it, and whose it must be."""

    id: str
    owner: str
    tenant: str


class DropRow(NamedTuple):
    """A job whose answer would be stored, and whose it must be; empty for anybody's."""

    id: str
    tenant: str


class AwayArguments(NamedTuple):
    """A model none of whose backends is there."""

    model: str
    cooldown_ms: int
    """Between two calls of the wake hook; 0: there is none."""
    has_met: Flag
    """The caller has met it, by a job that was refused or by a look that no other worker's word has led to."""


class BackArguments(NamedTuple):
    """A model a backend of which is there, or whose sleep hook has ended."""

    model: str
    is_there: Flag
    queue: str
    ticket: bytes


class DozeArguments(NamedTuple):
    """A model that may be put to sleep."""

    model: str
    idle_ms: int
    cooldown_ms: int
    longest_ms: int
    """How long the sleep hook may take."""


class CountArguments(NamedTuple):
    """A process that tells what it has counted, for the how manieth time, and the Redis server that it tells."""

    process: str
    number: int
    run: str
    states: bytes | str = ""
    """What stands in the process (`shared/metrics/states.py`); empty: nothing is said of it; gone: nothing does."""
    states_ms: int = 0
    """How long that counts."""


class CountRow(NamedTuple):
    """What is new of a model: fields and numbers in turn."""

    model: str
    pairs: tuple[Argument, ...]


class RememberArguments(NamedTuple):
    """A process that writes the models' last hour, if no other does."""

    writer: str
    lease_ms: int


class RememberRow(NamedTuple):
    """A model's newest point, empty for none, and what was counted up to it."""

    model: str
    point: bytes
    sums: bytes


class TellEndsArguments(NamedTuple):
    """How much is kept of what has ended."""

    most: int
    """Of each kind."""
    keep_ms: int


class TellEndsRow(NamedTuple):
    """One request or run that has ended."""

    kind: str
    """`request` or `run`, a colon, and the kind of outcome."""
    name: str
    ago_ms: int
    """Since its end."""
    told: bytes


class BrowseArguments(NamedTuple):
    """Behind which waiting job an operator looks on."""

    lane: str
    """Empty for all."""
    score: str
    after: str
    """Its id; empty to begin."""
    most: int


class SetModelArguments(NamedTuple):
    """What an operator wants of a model."""

    model: str
    action: str
    """pause, drain, retire or resume."""
    by: str
    via: str
    queue: str
    ticket: bytes


class SetBackendArguments(NamedTuple):
    """What an operator wants of one backend of a model."""

    model: str
    backend: str
    """Its key."""
    name: str
    """As the audit log has it: never its address."""
    action: str
    """pause, drain or resume."""
    configured: str
    """Keys of all the model's backends, separated by blanks."""
    by: str
    via: str
    queue: str
    ticket: bytes


class SetReply(NamedTuple):
    """What became of it."""

    before: bytes
    now: bytes
    running: int
    waiting: int


class EndJobsArguments(NamedTuple):
    """An operator who ends jobs."""

    by: str
    via: str
    target: str
    """What was asked for, in the audit log."""
    wire: bytes
    """The error that whoever waits for them is told."""
    quiet: Flag
    """Nothing is written down where none was ended."""


class MoveJobsArguments(NamedTuple):
    """An operator who moves jobs to a lane."""

    by: str
    via: str
    target: str
    lane: str


class NoteArguments(NamedTuple):
    """An action that no script does."""

    by: str
    via: str
    action: str
    target: str
    outcome: str


class UsageRow(NamedTuple):
    """A key of usage, of an hour or a day."""

    key: str


class RollArguments(NamedTuple):
    """A day since 1970 (UTC)."""

    day: int


class NoArguments(NamedTuple):
    """Nothing."""


class Swept(NamedTuple):
    """What one sweep did."""

    reclaimed: int
    expired: int
    orphaned: int
    tickets: int
    failures: tuple[str, ...]


def _raw(reply: Reply) -> list[Reply]:
    return cast("list[Reply]", reply)


def _letters(reply: Reply) -> bytes:
    return cast(bytes, reply)


def _number(reply: Reply) -> int:
    return int(reply)


def _admitted(reply: Reply) -> AdmitReply:
    return AdmitReply(*reply)


def _set(reply: Reply) -> SetReply:
    return SetReply(*reply)


def _swept(reply: Reply) -> Swept | None:
    if not reply:
        return None
    reclaimed, expired, orphaned, tickets, *failures = reply[1:]
    return Swept(reclaimed, expired, orphaned, tickets, tuple(text.decode(errors="replace") for text in failures))


ADMIT: Final = Script("admit", AdmitArguments, LimitRow, _admitted, AdmitLimits, keeps_rows=True)
TAKE: Final = Script("take", TakeArguments, NoRow, _raw)
MAKE_ROOM: Final = Script("make_room", MakeRoomArguments, NoRow, _number)
APPEND: Final = Script("append", AppendArguments, AppendRow, _letters)
RELEASE: Final = Script("release", ReleaseArguments, ReleaseRow, _letters)
RENEW: Final = Script("renew", RenewArguments, HeldRow, _raw)
CANCEL: Final = Script("cancel", OwnerArguments, IdRow, _letters)
FORGET: Final = Script("forget", ForgetArguments, IdRow, _number)
STAND: Final = Script("stand", StandArguments, StandRow, _raw)
LOOK: Final = Script("look", LookArguments, NoRow, _raw)
PEEK: Final = Script("peek", PeekArguments, PeekRow, _raw)
BEAT: Final = Script("beat", BeatArguments, NoRow, _number)
LEAVE: Final = Script("leave", LeaveArguments, ModelRow, _number)
HELLO: Final = Script("hello", HelloArguments, ModelRow, _raw)
SWEEP: Final = Script("sweep", SweepArguments, SweepRow, _swept)
DEPTH: Final = Script("depth", NoArguments, ModelRow, _raw)
HOLD: Final = Script("hold", FeederArguments, NoRow, _number)
LET_GO: Final = Script("let_go", FeederArguments, NoRow, _number)
RESULTS: Final = Script("results", ResultsArguments, NoRow, _raw)
ACKNOWLEDGE: Final = Script("acknowledge", BatchArguments, IdRow, _number)
HEAR: Final = Script("hear", HearArguments, NoRow, _raw)
COUNT: Final = Script("count", CountArguments, CountRow, _number)
REMEMBER: Final = Script("remember", RememberArguments, RememberRow, _number)
OBSERVE: Final = Script("observe", NoArguments, ModelRow, _raw)
DROP: Final = Script("drop", NoArguments, DropRow, _letters)
CAPACITY: Final = Script("capacity", CapacityArguments, NoRow, _raw)
AWAY: Final = Script("away", AwayArguments, NoRow, _number)
BACK: Final = Script("back", BackArguments, NoRow, _number)
DOZE: Final = Script("doze", DozeArguments, NoRow, _number)
SET_MODEL: Final = Script("set_model", SetModelArguments, NoRow, _set)
SET_BACKEND: Final = Script("set_backend", SetBackendArguments, NoRow, _set)
DESCRIBE: Final = Script("describe", NoArguments, IdRow, _raw)
END_JOBS: Final = Script("end_jobs", EndJobsArguments, IdRow, _letters)
MOVE_JOBS: Final = Script("move_jobs", MoveJobsArguments, IdRow, _letters)
TELL_ENDS: Final = Script("tell_ends", TellEndsArguments, TellEndsRow, _number)
BROWSE: Final = Script("browse", BrowseArguments, ModelRow, _raw)
NOTE: Final = Script("note", NoteArguments, NoRow, _number)
USED: Final = Script("used", NoArguments, UsageRow, _raw)
ROLL_DAY: Final = Script("roll_day", RollArguments, NoRow, _number)

ALL: Final = (
    *(USED, ROLL_DAY),
    *(ADMIT, TAKE, MAKE_ROOM, APPEND, RELEASE, RENEW, CANCEL, FORGET, PEEK, BEAT, LEAVE, HELLO, SWEEP, DEPTH),
    *(SET_MODEL, SET_BACKEND, DESCRIBE, END_JOBS, MOVE_JOBS, NOTE, TELL_ENDS, BROWSE),
    *(HOLD, LET_GO, RESULTS, ACKNOWLEDGE, HEAR, DROP, STAND, LOOK, AWAY, BACK, DOZE, COUNT, CAPACITY),
    *(REMEMBER, OBSERVE),
)
