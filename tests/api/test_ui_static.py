"""Scripts of the status page: none makes HTML, or code, of text."""

from __future__ import annotations

import re

import pytest

from api.ui.rendering import static_files

SCRIPTS = [name for name in static_files() if name.endswith(".js")]
FORBIDDEN = re.compile(
    r"\.(?:innerHTML|outerHTML)\b|insertAdjacentHTML|document\.write|\beval\(|new Function|createContextualFragment"
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_makes_html_or_code_of_text(name: str) -> None:
    assert FORBIDDEN.findall(static_files()[name].content.decode()) == []
