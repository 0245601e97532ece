"""LiteLLM's references to the environment and its literal secrets in, `${NAME}` out: a secret never leaves here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from shared.config import PREFIX

REFERENCE: Final = "os.environ/"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS: Final = re.compile(r"\$\{([^}]*)\}")
_VARIABLE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-[^}]*)?")
PLACEHOLDERS: Final = frozenset(
    (
        *("none", "null", "empty", "dummy", "fake", "fake-key", "fakekey", "my-fake-key", "placeholder", "n/a", "na"),
        *("not-needed", "not_needed", "notneeded", "no-key", "nokey", "no-key-required", "not-used", "unused"),
        *("unneeded", "ollama", "lm-studio", "lmstudio", "vllm", "anything", "x", "xx", "xxx"),
        *("sk-anything", "sk-none", "sk-dummy", "sk-fake", "sk-no-key-required"),
    )
)
"""What people write where a server wants no key."""


@dataclass
class Variables:
    """What the result wants to find in the environment."""

    needed: dict[str, list[str]] = field(default_factory=dict)
    """Name to the settings that it fills."""
    made: dict[str, str] = field(default_factory=dict)
    """Name to the field of the read file whose literal value belongs into it."""
    _by_secret: dict[str, str] = field(default_factory=dict)

    def reference(self, name: str, setting: str) -> str:
        """Return `${NAME}`, and remember where it is used."""
        self.needed.setdefault(name, []).append(setting)
        return f"${{{name}}}"

    def secret(self, value: str, wanted: str, setting: str, field: str) -> str:
        """Return a reference for a literal secret: the same for the same one, called as is wanted if that is free."""
        name = self._by_secret.get(value)
        if name is None:
            name, number = variable_name(wanted), 2
            while name in self.needed:
                name, number = f"{variable_name(wanted)}_{number}", number + 1
            self._by_secret[value] = name
            self.made[name] = field
        return self.reference(name, setting)

    def text(self, value: Any, setting: str) -> tuple[str, str]:
        """Return a text as our file has it, and what is to be said of it: references of both forms become `${NAME}`."""
        text = value if isinstance(value, str) else str(value)
        name = environment_name(text)
        if name is not None:
            usable = variable_name(name)
            note = (
                ""
                if usable == name
                else f"{name} is called {usable} here: names have letters, digits and _, and {PREFIX} is ours"
            )
            return self.reference(usable, setting), note
        if "${" not in text:
            return text, ""
        references = _OURS.findall(text)
        if text.count("${") == len(references) and all(_VARIABLE.fullmatch(one) for one in references):
            for one in references:
                self.reference(one.partition(":-")[0], setting)
            return text, "${…} is filled from the environment here; LiteLLM itself does not fill it"
        return text.replace("${", "$${"), ""


def environment_name(value: object) -> str | None:
    """Return the variable that `os.environ/NAME` names, None where a value is something else."""
    return value.removeprefix(REFERENCE) if isinstance(value, str) and value.startswith(REFERENCE) else None


def variable_name(text: str) -> str:
    """Return a name that a variable may have."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") if not _NAME.fullmatch(text) else text
    if not _NAME.fullmatch(name) or name.startswith(PREFIX):  # those are settings of ours
        return f"KEY_{name}".rstrip("_")
    return name


def is_placeholder(value: str) -> bool:
    """Whether a literal key is none: what is written where a server wants no key."""
    return not value.strip() or value.strip().lower() in PLACEHOLDERS
