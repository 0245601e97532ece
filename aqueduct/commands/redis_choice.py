"""Settings in, the URL of the Redis that a command should speak to out."""

from __future__ import annotations

from aqueduct.errors import WRONG_USAGE, CommandError
from shared.private_files import read_private
from shared.settings import Settings


def running_redis_url(settings: Settings) -> str | None:
    """Return `redis_url`, else that of the server which `aqueduct up` runs in the data folder, else None."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    try:
        return read_private(settings.data_dir / "redis" / "url").strip() or None
    except OSError:
        return None


def redis_url_here(settings: Settings) -> str:
    """Return the same.

    Raises:
        CommandError: no URL is given, and no `aqueduct up` runs here.
    """
    url = running_redis_url(settings)
    if url is None:
        raise CommandError(
            f"redis_url is not set and no `aqueduct up` runs with the data folder {settings.data_dir.absolute()}; name "
            "that of a running one with --data-dir (AQUEDUCT_DATA_DIR), or set redis_url (AQUEDUCT_REDIS_URL)",
            status=WRONG_USAGE,
        )
    return url
