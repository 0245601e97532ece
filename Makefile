# Every target makes or refreshes .venv by itself; nothing but a Python 3.11 or newer and make has to be there.
# Another Python: make PYTHON=/path/to/python3.13 test.  Further arguments: make test ARGS="-k queue -x".

PYTHON ?= $(shell sh tools/find_python.sh)
RUN = .venv/bin/python -m
# Tests wait far more than they compute, so more at once than cores pay off.
PROCESSES ?= 3
PYTEST = $(RUN) pytest -n $(PROCESSES) --dist loadfile -m "not alone"
# Promises with bounds in seconds are held to them with nothing beside. That none was chosen (5) is no failure.
ALONE = $(RUN) pytest -m alone
NONE_CHOSEN = || [ $$? -eq 5 ]

.DEFAULT_GOAL := help
.PHONY: help up test test-full screenshots check lint format types contract audit attack chaos chaos-short bench mutants lock docs docs-serve docs-reference clean install install-dev

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: install ## run everything on this machine: Redis, demo backend, worker, API, Flower
	@.venv/bin/aqueduct up $(ARGS)

test: install ## run every test that needs only Python; the others are skipped by name
	@$(PYTEST) $(ARGS) $(NONE_CHOSEN)
	@$(ALONE) $(ARGS) $(NONE_CHOSEN)

test-full: install-dev ## run all tests, those that need a browser, Node, nginx, Java or curl too; a skip fails
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(PYTEST) --full $(ARGS) $(NONE_CHOSEN)
	@$(ALONE) --full $(ARGS) $(NONE_CHOSEN)

check: lint types contract audit test ## what CI runs

lint: install-dev ## check style
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

format: install-dev ## bring the code into the project's style
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

types: install-dev ## check types, tests included
	@.venv/bin/mypy

audit: install-dev ## look the locked packages up among the known vulnerabilities
	@.venv/bin/python tools/audit.py

contract: install-dev ## check that api and workers never import each other
	@.venv/bin/lint-imports

chaos: install ## kill, freeze and cut everything under load, and print what callers saw; then the scripts beside their model (12 minutes)
	@$(RUN) tests.chaos $(ARGS)

chaos-short: install ## the same with fewer requests, each fault once (5 minutes)
	@$(RUN) tests.chaos --short $(ARGS)

attack: install ## send hostile inputs from clients and backends at a running stack, and print what came of them
	@$(RUN) tests.attack $(ARGS)

bench: install ## measure what the gateway adds; ARGS="--peer ferrogw,nemo-switchyard --only targets" tells what is met
	@$(RUN) benchmarks $(ARGS)

mutants: install ## break the code in known ways; each break must fail a test
	@.venv/bin/python tools/mutants.py $(ARGS)

lock: install-dev ## write both lock files anew with the newest versions
	@.venv/bin/uv pip compile pyproject.toml --group test --group build --output-file requirements.lock --upgrade $(LOCK)
	@.venv/bin/uv pip compile pyproject.toml --group dev --constraints requirements.lock --output-file requirements-dev.lock --upgrade $(LOCK)
LOCK = --universal --python-version 3.11 --no-header --no-annotate --quiet

screenshots: install-dev ## take the pictures of the status page in docs/images anew, under load (3 minutes; needs chromium)
	@$(RUN) tests.screenshots $(ARGS)

docs: docs-reference install-dev ## build the documentation as a site, build/site; a broken link fails
	@$(RUN) tools.site $(ARGS)

docs-serve: docs ## the same, at http://127.0.0.1:8090
	@$(RUN) http.server --bind 127.0.0.1 --directory build/site 8090

docs-reference: install ## write what docs/ and the README have of the code anew
	@.venv/bin/python tools/docs.py $(ARGS)
	@.venv/bin/python tools/chart.py $(ARGS)

clean: ## remove what the targets made; data in .aqueduct stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

install:
	@python="$(PYTHON)"; test -n "$$python" && "$$python" tools/bootstrap.py requirements.lock

install-dev:
	@python="$(PYTHON)"; test -n "$$python" && "$$python" tools/bootstrap.py requirements-dev.lock
