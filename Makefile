# The one entry point for people and for automation. `make help` lists it.
# Everything happens in .venv, which is made on the first call and costs nothing on the next.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

BIN := .venv/bin
PACKAGES := crds artifacts engine loadbalancer operator client
PIPELINE ?= examples/house-price/pipeline.yaml
ARGS ?=
export PYTHON

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

##@ Set-up (needs Python 3.11 or newer; PYTHON=/path chooses one)
.PHONY: setup setup-dev
setup: ## Make .venv with what running needs
	@scripts/environment.sh run
setup-dev: ## Add what tests and checks need
	@scripts/environment.sh dev

##@ Use
.PHONY: run demo
run: setup ## Serve the house-price example in the foreground (PIPELINE=file, ARGS=flags)
	@$(BIN)/midstream run $(PIPELINE) $(ARGS)
demo: setup ## Swap models under load, by itself, and print what happened
	@$(BIN)/python examples/house-price/demo.py $(ARGS)

##@ Work on it
.PHONY: test check fmt generate verify
test: setup-dev ## Run the unit and engine tests (ARGS='-k swap')
	@$(BIN)/pytest tests/unit tests/engine $(ARGS)
check: setup-dev ## Lint, format, types and import rules; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
fmt: setup-dev ## Format, and mend what the linter can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
generate: setup ## Write crds/*.yaml from the types
	@$(BIN)/python crds/generate.py
verify: setup ## Fail when crds/*.yaml is not what `make generate` writes
	@$(BIN)/python crds/generate.py --check

##@ Now and then
.PHONY: bench soak train lock clean
bench: setup-dev ## Compare the engine with a floor and with MLServer (minutes; wants a quiet machine)
	@scripts/environment.sh bench
	@$(BIN)/python -m benchmarks $(ARGS)
soak: setup-dev ## Run the long tests
	@$(BIN)/pytest tests/soak --timeout=7200 $(ARGS)
train: ## Train the example's models anew
	@scripts/environment.sh train
	@$(BIN)/python examples/house-price/train.py
lock: ## Write requirements/*.txt anew; needs uv (LOCK=--upgrade takes the newest versions)
	@scripts/lock.sh $(LOCK)
clean: ## Remove environments and caches
	rm -rf .venv .venv-bench .cache dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(PACKAGES) tests examples benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
