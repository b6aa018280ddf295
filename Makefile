# Everything a person types: `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
STAMP := .venv/.installed
# DVC stages and BentoML start `python`: it must be this environment's.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1
export BENTOML_DO_NOT_TRACK := true
export BENTOML_HOME ?= $(CURDIR)/var/bentoml

.PHONY: help setup servers demo test test-servers chaos lint proto serve monitor repro clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv and install the pinned dependencies

$(STAMP): requirements.lock pyproject.toml scripts/setup
	@sh scripts/setup

demo: $(STAMP) ## the whole loop once: train, serve, drift, retrain, promote (state under var/demo)
	@$(BIN)/python -m demo

test: $(STAMP) ## every test but those of test-servers
	@$(BIN)/python -m pytest -n 2 --dist loadgroup

servers: ## install the servers that test-servers and chaos start, where they are missing (Debian, as root)
	@sh scripts/servers

test-servers: $(STAMP) ## the tests that need servers of the system: PostgreSQL, Prometheus, Alertmanager (make servers installs them)
	@$(BIN)/python -m pytest -m servers

chaos: $(STAMP) ## fault drills: the whole site under load, one fault at a time (make servers first; as root for disks and networks)
	@$(BIN)/python -m benchmarks.chaos

lint: $(STAMP) ## ruff, mypy strict, import rule
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "error: not formatted: run .venv/bin/ruff format ." >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_import_rules.py

proto: $(STAMP) ## regenerate service/proto from proto/
	@$(BIN)/python scripts/proto

serve: $(STAMP) ## the service: HTTP 3000, gRPC 50051, health 50052
	@$(BIN)/python -m service

monitor: $(STAMP) ## the monitor: 9109, and Evidently's UI: 9110
	@BLASTWATCH_MONITOR_UI_PORT=$${BLASTWATCH_MONITOR_UI_PORT-9110} $(BIN)/python -m monitoring

repro: $(STAMP) ## the pipeline: dvc repro
	@$(BIN)/dvc repro

clean: ## remove what the pipeline and the demo made (not var/ but var/demo)
	@rm -rf prepared build reports var/demo .mypy_cache .ruff_cache .pytest_cache
