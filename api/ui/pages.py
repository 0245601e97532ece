"""All pages, in the order of the navigation."""

from __future__ import annotations

from typing import Final

from api.ui import audit, batches, jobs, now, playground, tokens, use

PAGES: Final = {module.PAGE.name: module.PAGE for module in (now, jobs, batches, use, playground, tokens, audit)}
