"""Every queue, channel and key name, made by functions, each with its lifetime.

The Lua scripts use the same names: `PREFIXES` and `SINGLES` are written into them (`shared/scripting.py`), so there is
one truth. A name is always a prefix and one last part, so that a model called `a:b` can collide with nothing.
`docs/protocol.md` describes what each key holds.
"""

from __future__ import annotations

from shared.protocol import QUEUE_PREFIX

PREFIXES: dict[str, str] = {
    "job": "aq2:job:",  # hash: the job's record. Until 60 s after its end, at most its longest possible life
    "body": "aq2:body:",  # list: a large request body in parts. Deleted when the job ends, same limit
    "log": "aq2:log:",  # list: the job's events. Until 60 s after its end, same limit
    "room": "aq2:room:",  # hash, a model: counters, lane clocks, drain rate. A day after the last use
    "lane": "aq2:lane:",  # sorted set, <lane>:<model>: waiting job ids by virtual start tag. While jobs wait
    "tags": "aq2:tags:",  # hash, <lane>:<model>: tenants' finish tags and the lane's clock. While jobs wait
    "groups": "aq2:groups:",  # hash, a model: `<lane>:<group>` of which somebody waits, or did a second ago, its weight
    "members": "aq2:members:",  # sorted set, <lane>:<group>:<model>: a group's waiting job ids by tag. While they wait
    "member_tags": "aq2:member_tags:",  # hash, the same: what `tags` is, between the group's tenants. While they wait
    "tenants": "aq2:tenants:",  # hash, a model: waiting jobs a tenant or `/<group>`. While jobs wait
    "waits": "aq2:waits:",  # sorted set, a model: waiting job ids by deadline. While jobs wait
    "running": "aq2:running:",  # sorted set, a model: running job ids by the end of their lease. While jobs run
    "batch_running": "aq2:batch_running:",  # set, a model: running jobs of the batch lane. While they run
    "awake": "aq2:awake:",  # string, a model: a busy worker looks by itself within this time. 20 ms
    "workers": "aq2:workers:",  # sorted set, a model: live workers by last heartbeat. A minute after the last one
    "owner": "aq2:owner:",  # string, an API process: its heartbeat. 8 s
    "owned": "aq2:owned:",  # set, an API process: ids of its jobs. Cleared with its owner; at most a day
    "token_jobs": "aq2:token_jobs:",  # sorted set, a subject: ids of its jobs by latest end. While it has jobs
    "subject_waits": "aq2:subject_waits:",  # sorted set, a subject: its waiting jobs by deadline. While they wait
    "minute": "aq2:minute:",  # string, a subject: what the last 61 seconds hold together, packed. Some minutes
    "seconds": "aq2:seconds:",  # hash, a subject: what each of them holds but the last, and is promised. As long
    "promise": "aq2:promise:",  # string, token and body: the places promised to it. Until they fall due
    "spent": "aq2:spent:",  # string, a subject: what is spent of this day and month, packed. Till the next is over
    "idempotency": "aq2:idempotency:",  # string, hash of token and Idempotency-Key: job id, body's hash. As the job
    "results": "aq2:results:",  # list, a batch or "stored": ids of its jobs that have ended. A day after the last
    "feeder": "aq2:feeder:",  # string, a batch or "stored": which process carries it. 15 s, renewed every 3 s
    "batch": "aq2:batch:",  # hash, a batch: live counts, and tries of lines that failed. A day after the last word
    "order": "aq2:order:",  # hash, <token>:<model>: its batches, whose windows end when. A minute after the last word
    "woken": "aq2:woken:",  # string, a model: its wake hook was called. For the hook's cool-down
    "slept": "aq2:slept:",  # string, a model: its sleep hook was called. For the hook's cool-down
    "dozing": "aq2:dozing:",  # string, a model: its sleep hook runs. For the hook's time limit
    "metrics": "aq2:metrics:",  # hash, a model: what all processes have counted. 30 days after the last word
    "counted": "aq2:counted:",  # string, a process: the number of its last telling of counts. A day after it
    "ended": "aq2:ended:",  # sorted set, <request or run>:<outcome>: what ended when. An hour after the last word
    "ended_told": "aq2:ended_told:",  # hash, the same: what is told of each. As long
    "states": "aq2:states:",  # string, a process: what stands in it now, for metrics. 10 s after the last word
    "capacity": "aq2:capacity:",  # hash, a model of `concurrency: auto`: who decides, and what was found. A day
    "measures": "aq2:measures:",  # list, such a model: what workers measured lately. 10 s
    "history": "aq2:history:",  # list, a model: its last hour, a point each 15 s. Two hours
    "history_base": "aq2:history_base:",  # string, a model: what was counted up to the last of them. Two hours
    "usage": "aq2:usage:",  # hash, an hour since 1970 (UTC): what was used in it, packed. 30 days after its first end
    "usage_day": "aq2:usage_day:",  # hash, a day since 1970 (UTC): the sum of its hours. 62 days
    "session": "aq2:session:",  # string, a login at the status page, hashed: whose token's hash. 12 hours
    "flower_pass": "aq2:flower_pass:",  # string, a word hashed: an API process lets one request through to Flower. 30 s
    "events": "aq2:events:",  # channel, an API process: frames of events of its jobs
}
"""The number in them is the protocol's: what another version wrote is never misread, only not seen."""

OWNERS = "aq2:owners"
"""Set of API processes that were alive lately. No lifetime; cleared by the sweep."""
CONTROL = "aq2:control"
"""Channel to all workers: ids of jobs to cancel."""
CROWD = "aq2:crowd"
"""Channel to the workers of models that hand batch work back: a model where somebody waits, or what was handed back."""
RELOAD = "aq2:reload"
"""Channel to all processes: the id of a request to read the configuration again."""
RELOAD_LAST = "aq2:reload:last"
"""String: the last such id, for processes that were not connected."""
SWEEPER = "aq2:sweeper"
"""String: who sweeps this second."""
SWEPT = "aq2:swept"
"""String: time of the last sweep in ms, to notice that Redis stood still. A day."""
HISTORIAN = "aq2:historian"
"""String: which API process writes the models' last hour. 40 s, renewed every 15 s."""
HOLD = "aq2:hold"
"""String: while it exists no job is taken (Redis was replaced; running jobs may be unknown to it). One lease."""
RUN = "aq2:run"
"""String: the run id of the Redis server that was last seen. A day."""
UNCOUNTED = "aq2:uncounted"
"""String: how many ends could not be counted. 62 days after the last."""
TELLERS = "aq2:tellers"
"""Sorted set of the processes that tell their states, by last word. 10 s after the last."""
USAGE_ORIGIN = "aq2:usage_origin"
"""String: a random name for all that was counted since this Redis was empty. 62 days after the last roll."""
PROCESSES = "aq:processes"
"""Sorted set of the processes of every protocol from 2 on, `<protocol> <name>` by last word. Trimmed to a minute."""
TOKENS = "aq:tokens"
"""Hash: SHA-256 of each created token to its record, whatever the protocol. No lifetime; mirrored to a file."""
GROUPS = "aq:groups"
"""Hash: name of each created group to its record, whatever the protocol. No lifetime; mirrored to a file."""
TOKEN_USES = "aq:token_uses"  # noqa: S105 - a name
"""Hash: SHA-256 of each token to when it was used last, in Unix seconds. A year after the last use of any."""

DEBUG = "aq2:debug"
"""Hash: name of each token whose prompts and answers are logged: until when, by whom. Until the last of these ends."""
AUDIT = "aq:audit"
"""List: what operators did, newest first, as JSON. No lifetime; its length is bounded."""

SINGLES: dict[str, str] = {
    "owners": OWNERS,
    "control": CONTROL,
    "crowd": CROWD,
    "sweeper": SWEEPER,
    "swept": SWEPT,
    "historian": HISTORIAN,
    "hold": HOLD,
    "run": RUN,
    "processes": PROCESSES,
    "audit": AUDIT,
    "uncounted": UNCOUNTED,
    "tellers": TELLERS,
}
"""What the scripts use beside the prefixes."""

BATCH_QUEUE = "aqueduct-batches"
"""Celery queue of the batches' tickets; no model's queue has a dash there. A list."""

WITHOUT_LIFETIME = (OWNERS, TOKENS, GROUPS, PROCESSES, AUDIT)
"""The only keys of ours that may stand without a lifetime, apart from `queue()` lists and Celery's bindings."""


def job(job_id: str) -> str:
    """Return the key of a job's record."""
    return PREFIXES["job"] + job_id


def order(token: str, model: str) -> str:
    """Return the key of the batches of a token and a model that have lines to begin; no token's name has a colon."""
    return f"{PREFIXES['order']}{token}:{model}"


def body(job_id: str) -> str:
    """Return the key of a job's request body."""
    return PREFIXES["body"] + job_id


def log(job_id: str) -> str:
    """Return the key of a job's event log."""
    return PREFIXES["log"] + job_id


def room(model: str) -> str:
    """Return the key of a model's counters."""
    return PREFIXES["room"] + model


def lane(lane_name: str, model: str) -> str:
    """Return the key of the jobs that wait in one lane of a model."""
    return f"{PREFIXES['lane']}{lane_name}:{model}"


def running(model: str) -> str:
    """Return the key of a model's running set."""
    return PREFIXES["running"] + model


def workers(model: str) -> str:
    """Return the key of a model's live workers."""
    return PREFIXES["workers"] + model


def events(owner: str) -> str:
    """Return the channel on which an API process hears of its jobs."""
    return PREFIXES["events"] + owner


def owner(owner_id: str) -> str:
    """Return the key of an API process's heartbeat."""
    return PREFIXES["owner"] + owner_id


def owned(owner_id: str) -> str:
    """Return the key of the ids of an API process's jobs."""
    return PREFIXES["owned"] + owner_id


def capacity(model: str) -> str:
    """Return the key of what was found of a model of `concurrency: auto`."""
    return PREFIXES["capacity"] + model


def results(batch_id: str) -> str:
    """Return the key of a batch's ended lines."""
    return PREFIXES["results"] + batch_id


def feeder(batch_id: str) -> str:
    """Return the key of the lease of a batch's feeder."""
    return PREFIXES["feeder"] + batch_id


def batch(batch_id: str) -> str:
    """Return the key of a batch's live counts."""
    return PREFIXES["batch"] + batch_id


def metrics(model: str) -> str:
    """Return the key of what was counted for a model; empty: for none."""
    return PREFIXES["metrics"] + model


def history(model: str) -> str:
    """Return the key of a model's last hour."""
    return PREFIXES["history"] + model


def history_base(model: str) -> str:
    """Return the key of what was counted of a model up to the last point of its hour."""
    return PREFIXES["history_base"] + model


def session(hashed_id: str) -> str:
    """Return the key of a login at the status page."""
    return PREFIXES["session"] + hashed_id


def flower_pass(hashed: str) -> str:
    """Return the key of what lets one request through to Flower."""
    return PREFIXES["flower_pass"] + hashed


def ended(what: str, outcome: str) -> str:
    """Return the key of the requests, or runs, of an outcome that have ended lately."""
    return f"{PREFIXES['ended']}{what}:{outcome}"


def ended_told(what: str, outcome: str) -> str:
    """Return the key of what is told of each of them."""
    return f"{PREFIXES['ended_told']}{what}:{outcome}"


def waits(model: str) -> str:
    """Return the key of a model's waiting jobs by deadline."""
    return PREFIXES["waits"] + model


def reloaded(request: str) -> str:
    """Return the key of the answers to a reload: a list, a minute."""
    return f"{RELOAD}:{request}"


def usage_hour(hour: int) -> str:
    """Return the key of what was used in an hour since 1970."""
    return f"{PREFIXES['usage']}{hour}"


def usage_day(day: int) -> str:
    """Return the key of what was used on a day since 1970."""
    return f"{PREFIXES['usage_day']}{day}"


def queue(model: str) -> str:
    """Return the name of a model's Celery queue, which is also its Redis list."""
    return QUEUE_PREFIX + model
