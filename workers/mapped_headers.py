"""Headers that a backend is sent for a job's lane, and with its token's name."""

from __future__ import annotations

from shared.backend_settings import BackendSettings
from shared.jobs import JobSpec


class MappedHeaders:
    """What one backend wants of them, as lines; made once."""

    def __init__(self, backend: BackendSettings) -> None:
        self._of_lane: dict[str, bytes] = {
            lane: "".join(f"{name}: {text}\r\n" for name, text in told.headers.items()).encode("ascii")
            for lane, told in backend.by_lane.items()
            if told.headers
        }
        self._token_name = backend.forward.token_name

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._of_lane or self._token_name)

    def lines(self, spec: JobSpec) -> bytes:
        """Return those of a job."""
        lines = self._of_lane.get(spec.lane, b"")
        if self._token_name is None or not spec.tenant.isascii() or not spec.tenant.isprintable():
            return lines
        return lines + f"{self._token_name}: {spec.tenant}\r\n".encode("ascii")
