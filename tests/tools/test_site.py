"""The documentation's site: every page is found in it, no link leads nowhere, and browsers fetch nothing elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tools.site.look import foreign
from tools.site.pages import FRONT, BrokenLink, for_site, navigation, pages, write_sources

EVERY = pages()


@pytest.mark.parametrize("path", EVERY)
def test_no_link_of_a_page_leads_nowhere(path: str) -> None:
    for_site(path, (ROOT / path).read_text(), EVERY)


def test_each_page_stands_in_the_navigation_once() -> None:
    listed = [name for _, names in navigation(EVERY) for name in names]
    assert sorted(listed) == sorted(name for path, name in EVERY.items() if path != FRONT)


def test_a_page_in_a_folder_that_nobody_listed_is_in_the_navigation(tree: Path) -> None:
    (tree / "docs" / "new").mkdir()
    (tree / "docs" / "new" / "page.md").write_text("# New\n")
    assert "new/page.md" in [name for _, names in navigation(pages(tree)) for name in names]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of three pages and a piece of code."""
    (tmp_path / "docs" / "how-to").mkdir(parents=True)
    (tmp_path / "docs" / "index.md").write_text("# Front\n\n[run](how-to/run.md#the-2nd-step-or-so)\n")
    (tmp_path / "docs" / "how-to" / "run.md").write_text(
        "# Run\n\n## The 2nd `step`, or so\n\n[back](../../README.md)\n"
    )
    (tmp_path / "README.md").write_text(
        "# Here\n\n[the\ncode](api/app.py), [`app.py`](api/app.py), [run](docs/how-to/run.md)\n"
    )
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "app.py").write_text("")
    return tmp_path


def test_links_lead_inside_of_the_site_and_code_is_named(tree: Path, tmp_path: Path) -> None:
    write_sources(tmp_path / "out", tree)
    assert "[run](how-to/run.md#the-2nd-step-or-so)" in (tmp_path / "out" / "index.md").read_text()
    assert "[back](../readme.md)" in (tmp_path / "out" / "how-to" / "run.md").read_text()
    assert (
        "the\ncode (`api/app.py`), `api/app.py`, [run](how-to/run.md)" in (tmp_path / "out" / "readme.md").read_text()
    )  # fmt: skip


def test_a_picture_that_leads_to_a_page_is_found_where_the_site_has_it(tree: Path) -> None:
    (tree / "docs" / "images").mkdir()
    (tree / "docs" / "images" / "seen.png").write_bytes(b"")
    text = "[![Seen](docs/images/seen.png)](docs/how-to/run.md)"
    assert for_site("README.md", text, pages(tree), tree) == "[![Seen](images/seen.png)](how-to/run.md)\n"


@pytest.mark.parametrize(
    "link", ["how-to/walk.md", "how-to/run.md#the-3rd-step", "#nowhere", "../api/gone.py", "images/none.png"]
)
def test_a_link_that_leads_nowhere_is_told(tree: Path, link: str) -> None:
    with pytest.raises(BrokenLink, match=link.rpartition("/")[2].rpartition("#")[2]):
        for_site("docs/index.md", f"[x]({link})", pages(tree), tree)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//fonts.example/css">'),
        ("a.html", '<link rel="preconnect" href="https://fonts.example">'),
        ("a.html", '<img src="http://shields.example/badge.svg">'),
        ("a.html", "<style>@import 'https://fonts.example/css';</style>"),
        ("a.css", "@font-face { src: url(https://fonts.example/x.woff2) }"),
        ("a.js", 'fetch("https://search.example/?q=")'),
    ],
)
def test_whatever_a_browser_would_fetch_elsewhere_is_found(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    assert len(list(foreign(tmp_path))) == 1


def test_a_link_that_people_follow_may_lead_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="https://example.org/">x</a><img src="_static/x.svg"><script src="x.js">')
    assert list(foreign(tmp_path)) == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "tools.site", folder],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.full("sphinx-build")
def test_the_site_has_every_page_and_fetches_nothing_elsewhere(site: Path) -> None:
    assert [name for name in EVERY.values() if not (site / name).with_suffix(".html").exists()] == []
    addresses = [page for page in site.rglob("*.html") if 'src="http' in page.read_text()]
    assert addresses == []
    assert list(foreign(site)) == []


@pytest.mark.full("sphinx-build", "chromium")
def test_the_search_works_without_a_server(site: Path) -> None:
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    found = subprocess.run(
        [*command, f"file://{site}/search.html?q=queue_timeout"],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert "reference/errors.html" in found.stdout


@pytest.mark.full("sphinx-build")
def test_what_sphinx_warns_of_fails_the_build(tree: Path) -> None:
    (tree / "docs" / "index.md").write_text("# Front\n\n```{no-such-directive}\n```\n")
    sources = tree / "out"
    write_sources(sources, tree)
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "-c", str(ROOT / "tools" / "site")]
    built = subprocess.run(
        [*command, str(sources), tree / "html"], capture_output=True, text=True, timeout=60, check=False
    )
    assert built.returncode == 1
    assert "no-such-directive" in built.stderr
