"""The open batches that a command shows: those of the store that is set, or that `aqueduct up` uses here."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from aqueduct.commands.common import UP_FILES
from shared.batches.open import OpenBatches
from shared.redis import RedisClient
from shared.settings import Settings
from shared.store import open_store


def open_batches(settings: Settings, client: RedisClient) -> OpenBatches | None:
    """Return the open batches of the store that is set, or that `aqueduct up` uses here; None where there is none.

    Raises StoreError and UntrustedPath. A folder that is not there is not made: this process only looks.
    """
    url = settings.storage.url or (settings.data_dir.absolute() / UP_FILES).as_uri()
    parts = urlsplit(url)
    if parts.scheme == "file" and not Path(unquote(parts.path)).is_dir():
        return None
    return OpenBatches(open_store(url), client)
