"""The only maker of Celery apps: Redis as broker, JSON only, no result backend; the bytes of tickets and job events.

A ticket says "jobs wait for model M" and nothing else. Its bytes are those of Celery's own message builder, made once a
model with a placeholder for the id, so that the `admit` script can push it without Celery's publishing cost.
"""

from __future__ import annotations

import base64
import json
import uuid
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, quote, urlparse

import orjson
from celery import Celery
from celery.app.amqp import AMQP
from kombu import Queue
from kombu.serialization import dumps

from shared import keys
from shared.redis_url import parse_sentinel_url, with_certificate_check
from shared.settings import Settings

TICKET_TASK = "aqueduct.ticket"
BATCH_TASK = "aqueduct.batch"
ID_PLACEHOLDER = "@ID@"


def broker_url(redis_url: str) -> tuple[str, dict[str, Any]]:
    """Return kombu's URL and transport options for a Redis URL of ours."""
    if redis_url.startswith("sentinel:"):
        return _sentinel_url(redis_url)
    parts = urlparse(redis_url)
    if parts.scheme == "rediss":
        return with_certificate_check(redis_url, lambda check: f"CERT_{check.upper()}"), {}
    if parts.scheme == "unix":
        database = dict(parse_qsl(parts.query)).get("db", "0")
        password = f":{parts.password}@" if parts.password else ""
        return f"redis+socket://{password}{parts.path}?virtual_host={database}", {}
    return redis_url, {}


def _sentinel_url(redis_url: str) -> tuple[str, dict[str, Any]]:
    sentinel = parse_sentinel_url(redis_url)
    user = (
        f"{quote(sentinel.username or '', safe='')}:{quote(sentinel.password, safe='')}@" if sentinel.password else ""
    )
    options: dict[str, Any] = {"master_name": sentinel.master_name}
    if sentinel.sentinel_password:
        options["sentinel_kwargs"] = {"username": sentinel.sentinel_username, "password": sentinel.sentinel_password}
    return ";".join(f"sentinel://{user}{host}:{port}/{sentinel.db}" for host, port in sentinel.hosts), options


def _database(redis_url: str) -> int:
    if redis_url.startswith("sentinel:"):
        return parse_sentinel_url(redis_url).db
    parts = urlparse(redis_url)
    if parts.scheme == "unix":
        return int(dict(parse_qsl(parts.query)).get("db", "0"))
    return int(parts.path.strip("/") or 0)


def event_topic(redis_url: str) -> str:
    """Return the pub/sub channel of batches of task events, to which Flower listens."""
    return f"/{_database(redis_url)}.celeryev/task.multi"


def event_batch(events: bytes, hostname: str) -> bytes:
    """Return a message of task events (a JSON list) as Celery's event dispatcher makes it; a test compares them."""
    delivery = {"exchange": "celeryev", "routing_key": "task.multi"}
    return orjson.dumps(
        {
            "body": base64.b64encode(events).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"hostname": hostname},
            "properties": {
                "delivery_mode": 1,
                "delivery_info": delivery,
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


def celery_app(settings: Settings, models: tuple[str, ...] | None = None, *, batches: bool = False) -> Celery:
    """Return the Celery app for workers and Flower; `models` limits the queues it consumes (default: all).

    With `batches` it consumes the batches' queue too.
    """
    url, options = broker_url(settings.redis)
    app = Celery("aqueduct", broker=url, set_as_current=False)
    served = tuple(settings.models) if models is None else models
    queues = [*map(keys.queue, served), *([keys.BATCH_QUEUE] if batches else [])]
    app.conf.update(
        broker_transport_options={
            **options,
            # Tickets may be lost or doubled without harm, so nothing is emulated: no `unacked` hash, no visibility
            # timeout, one BRPOP a ticket, and a worker that survives a Redis that goes away while it receives.
            "ack_emulation": False,
            # Tickets have no priorities; with kombu's four steps each BRPOP would name every queue four times.
            "priority_steps": [0],
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        # Only answers to control commands use the pool; it would keep their connections for good.
        broker_pool_limit=0,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_queues=[ticket_queue(name) for name in queues],
        task_default_queue=keys.queue(served[0]),
        task_default_exchange="aqueduct",
        task_create_missing_queues=True,
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        task_store_errors_even_if_ignored=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=False,
        worker_enable_remote_control=True,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        control_queue_ttl=60.0,
        control_queue_expires=60.0,
        event_queue_ttl=5.0,
        event_queue_expires=60.0,
        enable_utc=True,
    )
    return app


def ticket_queue(name: str) -> Queue:
    """Return a queue as workers consume it."""
    return Queue(name, routing_key=name)


@cache
def _message_builder() -> AMQP:
    """Return Celery's message builder; making its app takes tens of milliseconds, so all tickets share one."""
    amqp: AMQP = Celery("aqueduct", set_as_current=False).amqp
    return amqp


@cache
def ticket(model: str) -> bytes:
    """Return the ticket for a model, with `@ID@` for the task's id; a test compares it with what `send_task` pushes."""
    return _envelope(TICKET_TASK, model, keys.queue(model), ID_PLACEHOLDER)


def batch_ticket(batch_id: str, task_id: str) -> bytes:
    """Return the ticket that tells a worker process of a batch."""
    return _envelope(BATCH_TASK, batch_id, keys.BATCH_QUEUE, task_id)


def _envelope(task: str, argument: str, queue: str, task_id: str) -> bytes:
    message = _message_builder().as_task_v2(
        task_id, task, args=(argument,), kwargs={}, ignore_result=True, origin="aqueduct"
    )  # fmt: skip
    content_type, encoding, body = dumps(message.body, serializer="json")
    envelope = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": encoding,
        "content-type": content_type,
        "headers": message.headers,
        "properties": {
            **message.properties,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": task_id,
        },
    }
    return json.dumps(envelope).encode()
