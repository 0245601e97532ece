"""A job's facts: what never changes of it, as the scripts keep it with its record."""

from __future__ import annotations

import orjson

from shared.keys import PREFIXES
from shared.room.scripts import AdmitArguments, AdmitLimits

USUAL_KIND = "chat.completions"


def with_facts(asked: AdmitArguments, limits: AdmitLimits) -> AdmitArguments:
    """Return the arguments with the facts of all that they say: a JSON object, what is as usual left out.

    It is still open: `admit.lua` adds when the job was admitted and its limits. Made here, since Redis would take ten
    times as long for it.
    """
    facts: dict[str, str | float | bool] = {
        "model": asked.model,
        "lane": asked.lane,
        "tenant": asked.tenant,
        "cost": asked.cost,
        "weight": asked.weight,
        "bytes": asked.size,
        "max_tries": limits.max_tries,
        "life": limits.life_ms,
    }
    if asked.apart:
        facts["apart"] = True
    if asked.must_finish:
        facts["must_finish"] = True
    if limits.max_queue_tokens > 0:
        facts["counts_tokens"] = True
    if asked.group:
        facts["group"], facts["group_weight"] = asked.group, asked.group_weight
    if asked.idempotency:
        facts["idempotency"] = PREFIXES["idempotency"] + asked.idempotency
    if asked.sink:
        facts["sink"] = asked.sink
    if asked.kind != USUAL_KIND:
        facts["kind"] = asked.kind
    if limits.uncounted:
        facts["uncounted"] = True
    # The last field is put behind the others: `_replace` takes a microsecond.
    return AdmitArguments._make((*asked[:-1], orjson.dumps(facts)[:-1]))
