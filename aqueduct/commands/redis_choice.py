"""Settings in, the URL of the Redis that a command should speak to out."""

from __future__ import annotations

from shared.settings import Settings


def chosen_redis_url(settings: Settings) -> str | None:
    """Return `redis_url`, else that of the server which `aqueduct up` runs in the data folder, else None."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    try:
        return (settings.data_dir / "redis" / "url").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
