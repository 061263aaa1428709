# robopolicy: two commands set up a fresh machine by themselves and then run:  make demo   and   make test
#
# Every target that needs Python first runs .ci/setup, which does nothing when the environment is up to date.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
ENV := . .ci/env &&
PYTEST := python -m pytest

.PHONY: help setup demo demo-quick test unit test-slow lint format types wheel-smoke clean

help: ## what can be made
	@echo "usage: make TARGET"
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/' | expand -t 16

setup: ## create .venv, install everything, check compiler and GL; nothing to do when it is up to date
	@bash .ci/setup

demo: setup ## collect, train, eval and deploy on a simulated arm, with a report (about 12 minutes on 2 cores)
	@$(ENV) robopolicy demo $(ARGS)

demo-quick: setup ## the same in about 3 minutes, with a weaker policy
	@$(ENV) robopolicy demo --quick $(ARGS)

test: lint types unit wheel-smoke ## all that has to pass before a change is merged
	@echo "all checks passed"

unit: setup ## tests, two at a time; those that need a core to themselves one after another
	@mkdir -p build
	@$(ENV) $(PYTEST) -n 2 --dist worksteal -m "not slow and not realtime" $(ARGS) | tee build/tests-parallel.log
	@$(ENV) { $(PYTEST) -m "realtime and not slow" $(ARGS) || [[ $$? -eq 5 ]]; } | tee build/tests-realtime.log

test-slow: setup ## the tests that take minutes
	@mkdir -p build
	@$(ENV) { $(PYTEST) -m slow --timeout 3600 $(ARGS) || [[ $$? -eq 5 ]]; } | tee build/tests-slow.log

lint: setup ## style and format
	@$(ENV) ruff check . && ruff format --check .

format: setup ## put the format right
	@$(ENV) ruff check --fix-only . && ruff format .

types: setup ## types, on the tree laid out as it is imported
	@rm -rf build/stage build/lib
	@$(ENV) python setup.py -q build_py -d build/stage && MYPYPATH=build/stage mypy -p robopolicy

wheel-smoke: setup ## build the wheel, install it into an empty environment, run a small job from another folder
	@$(ENV) bash .ci/wheel_smoke

clean: ## remove what was built; keeps .venv and runs/
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
