"""Build the site: `python -m tools.site [FOLDER]`, `build/site` where none is named.

A broken link or anchor, a page that Sphinx has a word to say about, or an address of another server in what browsers
fetch is a failure: exit status 1.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.site.look import foreign
from tools.site.pages import ROOT, BrokenLink, write_sources


def build(site: Path) -> int:
    """Write the site anew; returns an exit status."""
    shutil.rmtree(site, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="aqueduct-docs-") as folder:
        sources, caches = Path(folder, "pages"), Path(folder, "caches")
        try:
            write_sources(sources)
        except BrokenLink as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--jobs", "auto"]
        settings = ["-c", str(ROOT / "tools" / "site"), "-d", str(caches), "-b", "html"]
        status = subprocess.run([*command, *settings, str(sources), str(site)], check=False).returncode
    asked = list(foreign(site)) if status == 0 else []
    for line in asked:
        print(f"error: fetched from elsewhere by {line}", file=sys.stderr)
    return 1 if asked else status


def main(arguments: list[str]) -> int:
    """Build into the folder that is named, and say where it is."""
    site = Path(arguments[0]) if arguments else ROOT / "build" / "site"
    status = build(site)
    if status == 0:
        print(f"the site is in {site}: open index.html there, or `make docs-serve`")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
