"""What stands in front of a script: each definition costs every call, so only those that it uses."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import pytest

from shared.room import scripts
from shared.scripting import Script

LUA = resources.files("shared.scripts")
LIBRARY = [file for file in (LUA / "lib").iterdir() if file.name.endswith(".lua")]
SCRIPTS = [file for file in LUA.iterdir() if file.name.endswith(".lua")]
DEFINED = re.compile(r"^local function (\w+)", re.MULTILINE)
NO_NAME = re.compile(r"--[^\n]*|'[^'\n]*'|\"[^\"\n]*\"|(?<!\.)\.[A-Za-z_]\w*")
DECLARED = re.compile(
    r"\blocal\s+(?!function\b)([\w, ]+)|\bfor\s+([\w, ]+?)\s*(?:=|\bin\b)"
    r"|\bfunction\s*\w*\s*\(([\w, ]*)\)|[{,]\s*(\w+)\s*=(?!=)"
)


@pytest.mark.parametrize("file", [*LIBRARY, *SCRIPTS], ids=lambda file: file.name)
def test_nothing_else_has_the_name_of_a_definition(file: resources.abc.Traversable) -> None:
    """Else the definition, and all that it uses, would be made in each call for nothing."""
    definitions = {name for one in LIBRARY for name in DEFINED.findall(one.read_text("utf-8"))}
    text = NO_NAME.sub(" ", file.read_text("utf-8"))
    declared = {name for found in DECLARED.findall(text) for part in found for name in re.findall(r"\w+", part)}
    assert not definitions & declared


@pytest.mark.parametrize(
    ("script", "has", "lacks"),
    [
        (
            scripts.ADMIT,
            {"enter_lane", "line_teller", "gatekeeper"},
            {"conclude", "finish", "wait_again", "settle_share"},
        ),
        (scripts.APPEND, {"conclude", "count_ends", "limiter"}, {"wait_again", "enter_lane", "gatekeeper"}),
        (scripts.TAKE, {"finish", "fail", "stand_again"}, {"wait_again", "gatekeeper", "line_teller"}),
    ],
    ids=["admit", "append", "take"],
)
def test_a_script_brings_along_what_it_uses(script: Script[Any, Any, Any], has: set[str], lacks: set[str]) -> None:
    brought = set(DEFINED.findall(script.source))
    assert has <= brought
    assert not lacks & brought
