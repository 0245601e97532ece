"""What the routes of `/admin/v1` ask for, of an API process's parts; failures are those that callers are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import Any, Final, TypeVar

import redis
from pydantic import ValidationError
from redis.exceptions import RedisError

from api.admin.schemas import (
    AdminBackend,
    AdminModel,
    Demand,
    HeldAnswer,
    JobFilterBody,
    JobListQuery,
    JobPage,
    Listing,
    Outcomes,
)
from shared.batches.open import OpenBatches
from shared.catalogue import Catalogue
from shared.config_problems import reason
from shared.control import audit
from shared.control.actor import HTTP, Actor
from shared.control.groups import GroupDesk
from shared.control.jobs import JobControl, JobFilter, counted
from shared.control.listing import Listing as JobListing
from shared.control.listing import Page
from shared.control.models import ACTIONS, BACKEND_ACTIONS, ModelControl, backends_of
from shared.control.problems import BadFilter, NoSuch
from shared.control.reload import reload_all
from shared.control.story import Stories, Story
from shared.control.tokens import IsConfigured, TokenDesk
from shared.errors import BrokerUnavailable, Conflict, InvalidRequest, NotFound
from shared.groups import GroupInUse, GroupNameTaken
from shared.holds import ACTIVE
from shared.jobs import request_id
from shared.private_files import UntrustedPath
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.redis_sync import connect
from shared.room.admission import broker_error
from shared.room.upkeep import Depth, Upkeep
from shared.settings import Settings
from shared.store import Store
from shared.token_settings import TokenSettings
from shared.tokens import TokenNameTaken, UnreadableMirror

log = logging.getLogger("aqueduct.admin")

MOST_JOBS: Final = 1000
Result = TypeVar("Result")


def actor(token: TokenSettings) -> Actor:
    """Return who acts."""
    return Actor(token.name, HTTP)


class AdminDesk:
    """One process's. Methods raise InvalidRequest, NotFound, Conflict and BrokerUnavailable."""

    def __init__(self, client: RedisClient, catalogue: Catalogue, upkeep: Upkeep, store: Store | None) -> None:
        self._client = client
        self._catalogue = catalogue
        self._upkeep = upkeep
        self._models = ModelControl(client, catalogue)
        self._jobs = JobControl(client, catalogue)
        self._listing = JobListing(client, catalogue)
        self._stories = Stories(client, catalogue)
        self._batches = OpenBatches(store, client) if store is not None else None

    # --- models -----------------------------------------------------------------------------------------------

    async def models(self) -> list[AdminModel]:
        """Return all models."""
        async with _told():
            depth = await self._upkeep.depth()
        return [self._model(name, found) for name, found in depth.items() if name in self._catalogue.settings.models]

    async def model(self, given: str) -> AdminModel:
        """Return one of them."""
        async with _told():
            name = self._models.find(given)
            return self._model(name, (await self._upkeep.depth())[name])

    def _model(self, name: str, depth: Depth) -> AdminModel:
        settings = self._catalogue.settings.models[name]
        return AdminModel.model_validate(
            {
                "id": name, "state": depth.state, "held": depth.held or None, "waiting": depth.waiting,
                "running": depth.running, "concurrency": settings.places, "live_workers": depth.workers,
                "oldest_wait_seconds": depth.oldest_ms / 1000, "ends_per_minute": depth.ends,
                "backends": [AdminBackend.model_validate(one) for one in backends_of(settings, depth)],
            }
        )  # fmt: skip

    async def demand(self, given: str) -> Demand:
        """Return what there is to do for a model's workers; open batches count, as workers carry these."""
        async with _told():
            name = self._models.find(given)
            depth = await self._upkeep.depth()
            found = depth[name]
            jobs = found.running
            if found.state == ACTIVE:
                jobs = max(jobs, min(jobs + sum(found.waiting.values()), self._catalogue.settings.models[name].places))
                if not jobs and self._batches is not None:
                    # Which model a batch is of, only a worker finds out: without any, each could be the one.
                    meant = {name} if any(one.workers for one in depth.values()) else {name, None}
                    jobs = int(any(row.model in meant for row in await self._batches.rows()))
        return Demand(model=name, jobs=jobs)

    async def set_model(self, given: str, action: str, backend: str | None, by: Actor) -> HeldAnswer:
        """Hold a model or one of its backends, or let it go."""
        async with _told():
            for known in ACTIONS if backend is None else BACKEND_ACTIONS:
                if known == action and backend is None:
                    return HeldAnswer(**asdict(await self._models.set_model(given, known, by)))
                if known == action and backend is not None and known != "retire":
                    return HeldAnswer(**asdict(await self._models.set_backend(given, backend, known, by)))
            what = f"a model: {', '.join(ACTIONS)}" if backend is None else f"a backend: {', '.join(BACKEND_ACTIONS)}"
            raise NoSuch(f"there is no action {action[:32]!r} of {what}")

    # --- jobs -------------------------------------------------------------------------------------------------

    async def jobs(self, wanted: JobListQuery) -> JobPage:
        """Return a page of what waits and runs, or of what has ended."""
        page = await self.page_of_jobs(wanted)
        return JobPage(
            data=[story.as_json() for story in page.stories], has_more=page.next is not None, next=page.next,
            looked=page.looked, waiting=page.waiting,
        )  # fmt: skip

    async def page_of_jobs(self, wanted: JobListQuery) -> Page:
        """Return the same as objects."""
        async with _told():
            return await self._listing.page(filter_of(wanted), wanted.after or "", wanted.limit, wanted.outcome)

    async def story(self, given_id: str) -> Story:
        """Return one job."""
        async with _told():
            return await self._stories.show(given_id)

    async def act_on_job(self, given_id: str, lane: str | None, by: Actor) -> dict[str, Any]:
        """End a job, or with a lane move it; one that there is not is NotFound."""
        async with _told():
            job = (await self._stories.show(given_id)).job
            job_id = job.id
            if lane is None:
                ((_, outcome),) = await self._jobs.cancel([job_id], by, request_id(job_id))
            else:
                ((_, outcome),) = await self._jobs.move([job_id], lane, by, request_id(job_id))
            if outcome == "unknown":  # what was found is kept for longer than its record
                outcome = "had ended"
        return {"id": request_id(job_id), "object": "job.action", "outcome": outcome}

    async def act_on_jobs(
        self, wanted: JobFilterBody, lane: str | None, by: Actor, *, everything: bool, dry_run: bool
    ) -> Outcomes:
        """End all that match, or with a lane move them."""
        meant = filter_of(wanted)
        if meant.is_empty() and not everything:
            raise InvalidRequest("Name a filter such as 'model', or say 'all': true.", param="all")
        async with _told():
            ids = [job.id async for job in self._jobs.matching(meant) if lane is None or job.state == "waiting"]
            if dry_run:
                return Outcomes(dry_run=True, matched=len(ids), outcomes={"would be": len(ids)} if ids else {})
            if lane is None:
                done = await self._jobs.cancel(ids, by, meant.text())
            else:
                done = await self._jobs.move(ids, lane, by, meant.text())
        return Outcomes(dry_run=False, matched=len(ids), outcomes=counted(done))

    # --- the rest ---------------------------------------------------------------------------------------------

    async def audit(self, start: int, limit: int) -> Listing:
        """Return what operators did, the newest first."""
        async with _told():
            found = await audit.entries(self._client, start, limit + 1)
        rows = [{"object": "audit.entry", **entry._asdict()} for entry in found[:limit]]
        return Listing(data=rows, has_more=len(found) > limit)

    async def reload(self, by: Actor) -> dict[str, Any]:
        """Have every process read its configuration again."""
        async with _told():
            asked, answers = await reload_all(self._client, by)
        return {"object": "reload", "asked": asked, "answers": answers}

    async def tokens(self, act: Callable[[TokenDesk], Result]) -> Result:
        """Do something with the tokens, beside the event loop."""
        return await self._beside(lambda client, settings: act(TokenDesk(client, settings)))

    async def groups(self, act: Callable[[GroupDesk], Result]) -> Result:
        """Do the same with the groups."""
        return await self._beside(lambda client, settings: act(GroupDesk(client, settings)))

    async def _beside(self, act: Callable[[redis.Redis, Settings], Result]) -> Result:
        def work() -> Result:
            settings = self._catalogue.settings
            with _said(), connect(settings.redis) as client:
                return act(client, settings)

        return await asyncio.to_thread(work)


def filter_of(body: JobFilterBody) -> JobFilter:
    """Return which jobs are meant."""
    return JobFilter(**{name: getattr(body, name) for name in JobFilter.__dataclass_fields__})


@asynccontextmanager
async def _told() -> AsyncIterator[None]:
    """Tell of what went wrong as callers are told."""
    try:
        yield
    except NoSuch as error:
        raise NotFound(_sentence(error)) from None
    except BadFilter as error:
        raise InvalidRequest(_sentence(error), param=str(error).partition(":")[0]) from None
    except (RedisUnavailable, RedisRefused) as error:
        raise broker_error(error) from error


@contextmanager
def _said() -> Any:
    """Do the same of what acting on tokens raises."""
    try:
        yield
    except NoSuch as error:
        raise NotFound(_sentence(error), param="name") from None
    except (TokenNameTaken, IsConfigured) as error:
        raise Conflict(_sentence(error), param="name", code="token_exists") from None
    except (GroupNameTaken, GroupInUse) as error:
        raise Conflict(_sentence(error), param="name", code="group_exists") from None
    except BadFilter as error:
        raise InvalidRequest(_sentence(error), param=str(error).partition(":")[0]) from None
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        field = str(found["loc"][0]) if found["loc"] else ""
        raise InvalidRequest(f"Invalid '{field}': {reason(dict(found), (field,), show=True)}", param=field) from None
    except RedisError as error:
        raise BrokerUnavailable(retry_after=2) from error
    except (UnreadableMirror, UntrustedPath, OSError) as error:
        log.error("the copy of the created tokens could not be written: %s", error)
        raise BrokerUnavailable("The copy of the tokens in the data folder cannot be written; see the log.") from error


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def fields_of(body: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return the members of a token's body; raises InvalidRequest for one that is no setting of tokens."""
    for name in body:
        if name not in known:
            raise InvalidRequest(f"Unknown member '{name}'; a token has: {', '.join(known)}.", param=name)
    return dict(body)
