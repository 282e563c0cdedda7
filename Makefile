# Every target sets up .venv by itself, and only when pyproject.toml or constraints.txt have changed.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint audit chaos containers docs clean
SHELL := bash
BIN := .venv/bin
ARGS ?=
# More than cores: the tests of outages and leases wait most of their time.
JOBS ?= 3

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  Options for a target go into ARGS: make demo ARGS="--minutes 2 --json", make test ARGS="-k window"'

setup: ## make .venv ready (Python >= 3.11, pinned versions, the demo's model)
	@tools/setup.sh

demo: setup ## learn a real stream on embedded parts, about four minutes
	@$(BIN)/streamlearn demo $(ARGS)

test: setup ## pass the tests; real Kafka and S3 servers are used where they are found
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: setup ## format, lint, types, layers, generated docs; changes nothing
	@echo 'ruff: format and rules';  $(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@echo 'mypy: types';             $(BIN)/mypy --no-error-summary
	@echo 'import-linter: layers';   $(BIN)/lint-imports --no-logo > .import_linter.log || { cat .import_linter.log; exit 1; }
	@rm -f .import_linter.log
	@echo 'docs: generated pages';   $(BIN)/python tools/docs.py --check

audit: setup ## ask whether a pinned version is known to be vulnerable; goes on where nobody can be asked
	@$(BIN)/python tools/audit.py

check: lint audit test ## everything CI asks for

chaos: setup ## kill workers at random on real Kafka and S3, then check every promise: ARGS="--kills 300 --seed 7"
	@$(BIN)/python -m tests.chaos $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

containers: setup ## the line from end to end on containers, and the compose stack (needs a Docker daemon)
	@STREAMLEARN_TEST_CONTAINERS=1 $(BIN)/python -m pytest tests/integration/test_line.py tests/integration/test_compose.py $(ARGS)

docs: setup ## write the generated pages of docs/ anew
	@$(BIN)/python tools/docs.py

clean: ## remove what the other targets made; the demo's lineage stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
