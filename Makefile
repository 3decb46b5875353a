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
PORT ?=
export PYTHON

# Images: IMAGE_BUILD is a command that takes `-t NAME -f FILE CONTEXT`, then IMAGE_TARGET and a stage of the Dockerfile.
IMAGE_BUILD ?= docker build
IMAGE_TARGET ?= --target
IMAGE_PREFIX ?= localhost/midstream-
IMAGE_TAG ?= dev
IMAGES := engine operator engine-lb
IMAGE_NAMES = $(patsubst %,$(IMAGE_PREFIX)%:$(IMAGE_TAG),$(IMAGES))
# A command that takes names of images and brings them to a cluster's nodes: `kind load docker-image`.
LOAD_IMAGES ?=
# A registry that this machine and the cluster's pods reach by the same name, over plain HTTP: HOST:PORT.
REGISTRY ?=
ON_CLUSTER = MIDSTREAM_TEST_REGISTRY="$(REGISTRY)" MIDSTREAM_ENGINE_IMAGE="$(IMAGE_PREFIX)engine:$(IMAGE_TAG)" \
    MIDSTREAM_OPERATOR_IMAGE="$(IMAGE_PREFIX)operator:$(IMAGE_TAG)" MIDSTREAM_ENGINE_LB_IMAGE="$(IMAGE_PREFIX)engine-lb:$(IMAGE_TAG)"

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

##@ Set-up (needs Python 3.11 or newer; PYTHON=/path chooses one)
.PHONY: setup setup-dev
setup: ## Make .venv with what running needs
	@scripts/environment.sh run
setup-dev: ## Add what tests and checks need
	@scripts/environment.sh dev

##@ Use
.PHONY: run demo
run: setup ## Serve the house-price example in the foreground (PIPELINE=file, PORT=8081, ARGS=flags)
	@$(BIN)/midstream run $(PIPELINE) $(if $(PORT),--port $(PORT)) $(ARGS)
demo: setup ## Swap models under load, by itself, and print what happened
	@$(BIN)/python examples/house-price/demo.py $(ARGS)

##@ Work on it
.PHONY: test check fmt generate verify
test: setup-dev ## Run the unit and engine tests (ARGS='-k swap')
	@scripts/environment.sh kserve
	@$(BIN)/pytest tests/unit tests/engine $(ARGS)
check: setup-dev ## Lint, format, types and import rules; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
fmt: setup-dev ## Format, and mend what the linter can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
generate: setup ## Write crds/*.yaml from the types, and the chart's copies of them
	@$(BIN)/python crds/generate.py
	@cp crds/*.yaml charts/midstream/files/crds/
verify: setup ## Fail when a file is not what `make generate` writes
	@$(BIN)/python crds/generate.py --check
	@for crd in crds/*.yaml; do cmp "$$crd" "charts/midstream/files/$$crd" || exit; done

##@ On a cluster (KUBECONFIG; docs/cluster.md)
.PHONY: images push-models test-cluster bench-cluster e2e-local
images: ## Build the images (IMAGE_BUILD='podman build', IMAGE_TAG=dev)
	@set -e; for target in $(IMAGES); do \
	    echo "== $(IMAGE_PREFIX)$$target:$(IMAGE_TAG)"; \
	    $(IMAGE_BUILD) -t "$(IMAGE_PREFIX)$$target:$(IMAGE_TAG)" -f Dockerfile . $(IMAGE_TARGET) $$target; \
	done
push-models: setup ## Push the examples' models (TO=oci://registry/repository, ARGS=--plain-http); writes .cache/pushed/*.yaml
	@test -n "$(TO)" || { echo "say where to: make push-models TO=oci://registry/repository" >&2; exit 2; }
	@mkdir -p .cache/pushed
	@set -e; for manifest in examples/*/*.yaml; do \
	    pushed=.cache/pushed/$$(basename "$$(dirname "$$manifest")")-$$(basename "$$manifest"); \
	    $(BIN)/midstream push "$$manifest" --to "$(TO)" -o "$$pushed" $(ARGS); \
	    echo "$$pushed"; \
	done
test-cluster: setup-dev ## Test on a real cluster (KUBECONFIG, LOAD_IMAGES='kind load docker-image', REGISTRY=host:port)
	@test -n "$(KUBECONFIG)" || { echo "say which cluster: KUBECONFIG=file" >&2; exit 2; }
	@test -n "$(LOAD_IMAGES)" || { echo "say how images get to its nodes: LOAD_IMAGES='kind load docker-image'" >&2; exit 2; }
	@$(LOAD_IMAGES) $(IMAGE_NAMES)
	@$(ON_CLUSTER) $(BIN)/pytest tests/cluster $(ARGS)
bench-cluster: setup-dev ## Measure swaps on a real cluster (as test-cluster)
	@test -z "$(LOAD_IMAGES)" || $(LOAD_IMAGES) $(IMAGE_NAMES)
	@$(ON_CLUSTER) $(BIN)/python -m benchmarks.cluster $(ARGS)
e2e-local: ## Bring the shared cluster up, build and load the images, and run test-cluster (root)
	@set -e; cluster=../shared/cluster/cluster; started=$$($$cluster up); echo "$$started"; \
	    eval "$$(echo "$$started" | grep '^export ')"; \
	    $$cluster start argocd || $$cluster start argocd; \
	    $(MAKE) images IMAGE_BUILD="$$cluster build" IMAGE_TARGET='-- --target'; \
	    $(MAKE) test-cluster LOAD_IMAGES="$$cluster load" REGISTRY="$${REGISTRY:-10.245.0.1:5000}"

##@ Now and then
.PHONY: bench soak fuzz train lock clean
bench: setup-dev ## Compare the engine with a floor and with MLServer (minutes; wants a quiet machine)
	@scripts/environment.sh bench
	@$(BIN)/python -m benchmarks $(ARGS)
soak: setup-dev ## Run the long tests
	@$(BIN)/pytest tests/soak --timeout=7200 $(ARGS)
fuzz: setup-dev ## Run 200,000 fuzzed requests and 3,000 random pipelines (SEED=number, ARGS='--count 1000000')
	@set -e; seed=$${SEED:-$$($(BIN)/python -c 'import secrets; print(secrets.randbelow(10**9))')}; \
	    PYTHONPATH=tests $(BIN)/python -m fuzz --seed "$$seed" $(ARGS); \
	    MIDSTREAM_EXAMPLES=3000 $(BIN)/pytest tests/engine/test_properties.py --hypothesis-seed="$$seed" --timeout=3600
train: ## Train the example's models anew
	@scripts/environment.sh train
	@$(BIN)/python examples/house-price/train.py
lock: ## Write requirements/*.txt anew; needs uv (LOCK=--upgrade takes the newest versions)
	@scripts/lock.sh $(LOCK)
clean: ## Remove environments and caches
	rm -rf .venv .venv-bench .venv-kserve .cache dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(PACKAGES) tests examples benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
