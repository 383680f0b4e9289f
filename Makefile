# `make help` lists what there is. Everything but the packages named in the README is installed by `make` itself.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3.11
BIN := .venv/bin
# One shell line that gives the bare tools their environment.
ENVIRONMENT = eval "$$($(BIN)/contrail env)"
PACKAGES := cli jobs assets resources feature_repo sources features contrail
DBT_SOURCES := $(shell find dbt_project -mindepth 1 \( -name target -o -name logs -o -name __pycache__ \) -prune -o -print 2>/dev/null)
# Most of the suite waits for processes that it starts: two workers also on a small machine. 0 is one process, no worker.
TEST_WORKERS ?= 2
MANIFEST := dbt_project/target/manifest.json

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: install
install:
	@scripts/bootstrap.sh $(PYTHON)
	@$(BIN)/contrail env --write >/dev/null

$(MANIFEST): $(DBT_SOURCES) requirements.lock
	@echo "setup: parsing the dbt project"
	@$(ENVIRONMENT); $(BIN)/dbt --quiet parse --project-dir dbt_project
	@touch $@

.PHONY: setup
setup: install ## install what requirements.lock says; nothing the second time
	@$(MAKE) --no-print-directory --silent $(MANIFEST)

.PHONY: demo
demo: setup ## the whole graph on the default data, from landing files to scores; TUNE=20 searches parameters, too
	@$(ENVIRONMENT); contrail run
	@$(if $(TUNE),$(ENVIRONMENT); contrail tune --trials $(TUNE))

.PHONY: dev
dev: setup ## Dagster's web page and daemon on what `demo` made
	@$(ENVIRONMENT); dagster dev

.PHONY: lint
lint: setup ## static checks only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive $(PACKAGES) definitions.py
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --no-verify --baseline .secrets.baseline

.PHONY: test
test: lint ## everything: static checks, then all tests with coverage
	@scripts/system_packages.sh
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses=$(TEST_WORKERS) --dist=loadfile --cov --cov-report=term:skip-covered --cov-fail-under=85 $(TESTS)

.PHONY: bench
bench: setup ## the benchmarks; each prints our cost, the ordinary way's cost, and the ratio
	@for program in benchmarks/bench_*.py; do echo "== $$program"; $(BIN)/python "$$program"; done

.PHONY: feast-suite
feast-suite: setup ## Feast's own offline-store tests against our store: CHECKOUT=folder with Feast's repository
	scripts/feast_suite.sh $(CHECKOUT)

.PHONY: pictures
pictures: setup ## take the pictures of docs/ from what `demo` made
	@$(ENVIRONMENT); $(BIN)/python scripts/pictures.py

.PHONY: lock
lock: ## resolve pyproject.toml anew into requirements.lock (keeps versions that still fit; UPGRADE=--upgrade moves them)
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml --extra dev --generate-hashes \
		--python-version 3.11 --no-emit-index-url --quiet $(UPGRADE) --output-file requirements.lock

.PHONY: clean
clean: ## remove what was made, the default lake included; keep .venv
	rm -rf .contrail .env dbt_project/target dbt_project/logs logs .coverage .coverage.* htmlcov build dist screenshots
	rm -rf .pytest_cache .ruff_cache .import_linter_cache .hypothesis .tmp_dagster_home_*
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
