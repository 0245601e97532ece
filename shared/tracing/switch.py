"""Whether this process is traced: the standard `OTEL_*` variables in, what makes spans out, or None."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shared.tracing.sdk import Tracing

log = logging.getLogger("aqueduct.traces")

INSTALL: Final = "pip install 'aqueduct-gateway[traces]'"
EXPORTER: Final = "OTEL_TRACES_EXPORTER"
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL: Final = "http/protobuf"
_EXPORTER_MODULE: Final = "opentelemetry.exporter.otlp.proto.http"
KNOWN: Final = ("otlp", "console")


def exporters_wanted(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return which exporters the variables name, none where they ask for no traces.

    An endpoint alone means `otlp`, as the standard's default is. Raises ValueError for what is not to be had here.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    named = [name.strip().lower() for name in environ.get(EXPORTER, "").split(",") if name.strip()]
    if not named and any(environ.get(name, "").strip() for name in ENDPOINTS):
        named = ["otlp"]
    if "none" in named:
        return ()
    for name in named:
        if name not in KNOWN:
            raise ValueError(f"{EXPORTER}={name[:64]}: set it to otlp, console or none")
    protocol = next((value for name in PROTOCOLS if (value := environ.get(name, "").strip())), PROTOCOL)
    if "otlp" in named and protocol != PROTOCOL:
        raise ValueError(f"OTLP by {protocol[:64]} is not to be had here: set {PROTOCOLS[0]}={PROTOCOL}")
    return tuple(dict.fromkeys(named))


def is_installed() -> bool:
    """Whether what makes and sends spans is there; without importing it."""
    try:
        return all(find_spec(name) is not None for name in ("opentelemetry.sdk.trace", _EXPORTER_MODULE))
    except ModuleNotFoundError:  # of one above it
        return False


def open_tracing(role: str, instance: str) -> Tracing | None:
    """Return what makes this process's spans; None where no variable asks for it, or it is not to be had: the log says.

    `role` is `api` or `worker`, `instance` a name that no other process has.
    """
    try:
        exporters = exporters_wanted(os.environ)
        if not exporters:
            return None
        # Hundreds of modules, and not installed unless asked for: only who is traced has them.
        from shared.tracing.sdk import Tracing  # noqa: PLC0415
    except ValueError as error:
        log.warning("no traces: %s", error)
        return None
    except ImportError as error:
        log.warning(
            "no traces: the OTEL_* variables ask for them, and %s is not installed; run: %s", error.name, INSTALL
        )
        return None
    try:
        return Tracing(exporters, role, instance)
    except Exception as error:
        # Such as a variable of the standard's that the SDK cannot read; requests go on without.
        log.warning("no traces: %s", error)
        return None
