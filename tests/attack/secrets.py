"""What no log may hold, whatever was sent before."""

from __future__ import annotations

from collections.abc import Iterator

from tests.attack.scripts import KEY, KEY_BASE64
from tests.attack.stack import LOGIN
from tests.attack.suite import Group, Suite


def groups(suite: Suite) -> Iterator[Group]:
    """Yield the look at the logs, which comes last."""
    logs = Logs(suite.stack.logs(), (KEY, KEY_BASE64, LOGIN[1], *suite.stack.tokens.values()))
    yield Group(
        "logs",
        {
            "no secret": logs.hold_no_secret,
            "nothing that tells a terminal to do something": logs.tell_no_terminal,
            "no forged line": logs.hold_no_forged_line,
            "no traceback": logs.hold_no_traceback,
        },
    )


class Logs:
    """The checks."""

    def __init__(self, written: str, secrets: tuple[str, ...]) -> None:
        self._written = written
        self._secrets = secrets

    def hold_no_secret(self) -> None:
        """No key, token or password."""
        assert not [secret[:4] for secret in self._secrets if secret in self._written]

    def tell_no_terminal(self) -> None:
        """No control character."""
        assert not any(mark in self._written for mark in "\x1b\x07\x9b\u202e")

    def hold_no_forged_line(self) -> None:
        """No line is written by a caller or a backend."""
        assert not [line for line in self._written.splitlines() if line.startswith("FORGED")]

    def hold_no_traceback(self) -> None:
        """Whatever was sent, nothing stumbled over it."""
        at = self._written.find("Traceback")
        assert at < 0, self._written[max(0, at - 300) : at + 600]
