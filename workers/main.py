"""What `celery -A workers.main worker --pool solo` loads: settings from the environment, read at import."""

from __future__ import annotations

import os
from pathlib import Path

from shared.catalogue import Catalogue, Source
from workers.app import create_worker

_file = os.environ.get("AQUEDUCT_CONFIG")
app = create_worker(
    Catalogue.of(Source(Path(_file) if _file else None, resolve_flower_password=True, resolve_webhook_secrets=True))
)
