"""The Celery tasks: a ticket came, as jobs of its model wait, or a batch does. It carries no job: one may be lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.exceptions import InvalidTaskError
from kombu import Message

from shared.broker import BATCH_TASK, TICKET_TASK
from workers.tuning import YIELD_SECONDS

log = logging.getLogger("aqueduct.worker.tickets")

_NO_TICKET = "a ticket has one argument, the name of a model or of a batch"


def bind_ticket(app: Celery, wake: Callable[[str], None]) -> None:
    """Register the ticket's task with this app; `wake` gets the model's name on Celery's thread."""
    _bind(app, TICKET_TASK, wake)


def bind_batch(app: Celery, ring: Callable[[str], None]) -> None:
    """Register the task of the batches' tickets; `ring` gets the batch's id on Celery's thread."""
    _bind(app, BATCH_TASK, ring)


def _bind(app: Celery, name: str, wake: Callable[[str], None]) -> None:

    def ticket(model: str) -> None:
        """Wake the model's slots; they take what waits, up to what is free."""
        wake(model)

    def strategy(task: Task[Any, Any], app: Celery, consumer: Any) -> Callable[..., None]:
        """Return how the consumer handles a ticket: on receipt, as the wake-up is shorter than a pool's bookkeeping.

        It stands for `celery.worker.strategy:default`, which would build a request, trace it and hand it to the pool:
        half of what a ticket costs, for a call of microseconds.
        """

        def receive(message: Message, body: Any, ack: Callable[..., None], *_: Any) -> None:
            try:
                ((model,), _kwargs, _embed) = message.payload
            except (TypeError, ValueError) as error:
                raise InvalidTaskError(_NO_TICKET) from error
            if not isinstance(model, str):
                raise InvalidTaskError(_NO_TICKET)
            wake(model)
            ack(log, consumer.connection_errors)
            time.sleep(YIELD_SECONDS)

        return receive

    app.task(name=name, send_events=False, ignore_result=True, serializer="json", Strategy=staticmethod(strategy))(
        ticket
    )
