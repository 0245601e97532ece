"""Models and backends held, let go and looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from shared import keys
from shared.backend_keys import key_of, keys_of
from shared.backend_settings import BackendSettings
from shared.broker import ticket
from shared.catalogue import Catalogue
from shared.config_problems import suggestion
from shared.control.actor import Actor
from shared.control.audit import say
from shared.control.problems import NoSuch
from shared.redis import RedisClient
from shared.room.scripts import SET_BACKEND, SET_MODEL, SetBackendArguments, SetModelArguments, SetReply
from shared.room.upkeep import Depth
from shared.scripting import Scripts
from shared.settings import ModelSettings

Action = Literal["pause", "resume", "drain", "retire"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)
BackendAction = Literal["pause", "resume", "drain"]
BACKEND_ACTIONS: Final[tuple[BackendAction, ...]] = get_args(BackendAction)


@dataclass(frozen=True, slots=True)
class Held:
    """What became of an action on a model or one of its backends."""

    model: str
    backend: int | None
    """Its place in the model's list."""
    before: str
    now: str
    """A model's: active, paused, draining, retired. A backend's: active, held."""
    running: int
    """Jobs of the model that run; they end as ever."""
    waiting: int


class ModelControl:
    """Acts on models. Every method raises NoSuch, RedisUnavailable or RedisRefused."""

    def __init__(self, client: RedisClient, catalogue: Catalogue) -> None:
        self._scripts = Scripts(client)
        self._catalogue = catalogue

    def find(self, given: str) -> str:
        """Return the own name of a model that is named by it or an alias."""
        names = self._catalogue.names
        if given not in names:
            known = ", ".join(self._catalogue.settings.models)
            raise NoSuch(f"no model is called {given!r}{suggestion(given, names)}; there are: {known}")
        return names[given]

    async def set_model(self, given: str, action: Action, actor: Actor) -> Held:
        """Hold a model or let it go; asked for again it changes nothing."""
        name = self.find(given)
        asked = SetModelArguments(name, action, actor.by, actor.via, keys.queue(name), ticket(name))
        reply = await self._scripts.run(SET_MODEL, asked)
        return self._told(actor, f"model.{action}", name, None, reply)

    async def set_backend(self, given: str, backend: str, action: BackendAction, actor: Actor) -> Held:
        """Have a backend called no more, or again; `backend` is its place from 0 on, its URL, or its host and port."""
        name = self.find(given)
        model = self._catalogue.settings.models[name]
        place = find_backend(name, model, backend)
        asked = SetBackendArguments(
            name, key_of(model.backends[place]), f"backend {place}", action, keys_of(model.backends),
            actor.by, actor.via, keys.queue(name), ticket(name),
        )  # fmt: skip
        reply = await self._scripts.run(SET_BACKEND, asked)
        return self._told(actor, f"backend.{action}", name, place, reply)

    def _told(self, actor: Actor, action: str, name: str, place: int | None, reply: SetReply) -> Held:
        before, now = reply.before.decode(), reply.now.decode()
        say(actor, action, name if place is None else f"{name} backend {place}", f"{before} -> {now}")
        return Held(name, place, before, now, reply.running, reply.waiting)


def find_backend(name: str, model: ModelSettings, given: str) -> int:
    """Return the place of a model's backend; raises NoSuch, with what exists."""
    found = [at for at, one in enumerate(model.backends) if given in (str(at), one.url, where(one))]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{at} ({where(one)})" for at, one in enumerate(model.backends))
    what = "several backends" if found else "no backend"
    raise NoSuch(f"{what} of {name!r} can be meant by {given!r}; it has: {known}")


def where(backend: BackendSettings) -> str:
    """Return a backend's host and port, without what else its URL may hold."""
    return backend.url.split("//", 1)[-1].split("/", 1)[0].rpartition("@")[2]


def shown_state(depth: Depth) -> str:
    """Return a model's state in a word for people: an operator's, else what holds it, else `active`."""
    if depth.state == "draining" and not depth.running:
        return "drained"
    if depth.state != "active":
        return depth.state
    return f"held: {depth.held}" if depth.held else "active"


def backends_of(model: ModelSettings, depth: Depth) -> list[dict[str, object]]:
    """Return what is told of a model's backends."""
    return [
        {"place": at, "host": where(one), "state": "held" if key_of(one) in depth.backends_off else "active"}
        for at, one in enumerate(model.backends)
    ]
