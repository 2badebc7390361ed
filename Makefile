# `make help` says what there is. Needs GNU make and Python 3.11 or newer; everything else is fetched into .venv.

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
PROFILE ?= quickstart
KEEP    ?=
ARGS    ?=
PYTEST_ARGS ?=
NO_VENV_PIP := PIP_DISABLE_PIP_VERSION_CHECK=1
INSTALL := $(NO_VENV_PIP) $(BIN)/python -m pip install --quiet
DEV     := $(VENV)/.dev-installed
CLI     := $(VENV)/.cli-installed
GENERATED := $(VENV)/generated
ENGINE_TESTS := $(wildcard tests/vllm/small tests/vllm/trained tests/vllm/options tests/vllm/guided tests/torch tests/openai)
FORMATTED := protocol speculation llamacpp verifier edge operator cli tests bench docs images

.DEFAULT_GOAL := help
.PHONY: help env demo engines images test e2e test-engines check format bench bench-throughput bench-capacity bench-operator proto crds docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: PROFILE=quickstart|pair and KEEP=1 for demo, PYTHON=python3.12 for another Python,"
	@echo "  PYTEST_ARGS='tests/unit -k wire' for a part of the tests."

env: $(DEV) ## Create .venv with everything that a developer needs

demo: $(CLI) ## Run a fleet on this machine and compare every text with the target's own
	$(BIN)/sled demo --profile $(PROFILE) $(if $(KEEP),--keep) $(ARGS)

test: check ## Run everything that CI runs
	$(BIN)/python -m pytest $(ENGINE_TESTS:%=--ignore=%) $(PYTEST_ARGS)
ifeq ($(PYTEST_ARGS),)
	@$(MAKE) --no-print-directory test-engines
	@PYTHONPATH=tests/support $(BIN)/python -m sled_testkit.node_system
endif

images: $(DEV) ## Build the container images for this machine, with buildah or docker
	$(BIN)/python images/build.py $(ARGS)

# Needs root and Linux; says how it went in bench/results/e2e.json, and records its first install.
e2e: $(DEV) ## Run the scenarios on real nodes: helm install to text on a device
	SLED_E2E_RESULTS=bench/results/e2e.json SLED_E2E_RECORDING=docs/tutorials/first-cluster.cast \
	  $(BIN)/python -m pytest tests/e2e $(PYTEST_ARGS)

engines: ## Make the environment with vLLM and torch for the engines' tests (6 GB, in the user's cache)
	@PYTHON=$(PYTHON) tests/engines/install.sh

# A process can load vLLM once, so each folder is a run of its own.
test-engines: engines ## Run the tests of the engines that need vLLM or torch
	@set -e; python=$$(tests/engines/install.sh)/bin/python; for folder in $(ENGINE_TESTS); do \
	  echo "== $$folder"; $$python -m pytest $$folder; done

check: $(DEV) ## Check formatting, lint, types, import contracts, and that generated files are unchanged
	$(BIN)/ruff format --check $(wildcard $(FORMATTED))
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory check-generated

format: $(DEV) ## Format the code and fix what lint can fix
	$(BIN)/ruff check --fix --quiet || true
	$(BIN)/ruff format $(wildcard $(FORMATTED))

bench: $(DEV) engines ## Measure what takes minutes, and write bench/results (under 20 minutes)
	$(BIN)/python bench/engine
	$(BIN)/python bench/exactness.py
	$(BIN)/python bench/capacity --quick --parts simulated
	$(BIN)/python bench/throughput --quick --parts vllm llamacpp
	$(BIN)/sled demo --results bench/results/demo.json

bench-throughput: $(DEV) engines ## Measure every backend at every load, beside other servers (about an hour)
	$(BIN)/python bench/throughput $(ARGS)

bench-capacity: $(DEV) engines ## Measure how many devices a verifier carries, simulated and real (25 minutes)
	$(BIN)/python bench/capacity $(ARGS)

bench-operator: $(DEV) ## Measure the operator at scale, and how long it takes to recover (long)
	$(BIN)/python bench/operator
	$(BIN)/python bench/operator/recovery.py

proto: $(DEV) ## Regenerate the gRPC stubs (committed; `make check` verifies they are unchanged)
	$(call stubs,protocol)

crds: $(DEV) ## Regenerate the resource definitions and the chart's copy (committed, checked likewise)
	$(BIN)/python -m sled_operator.spec.crd crds
	$(BIN)/python charts/generate.py

docs: $(DEV) ## Regenerate the reference pages (committed, checked likewise)
	$(BIN)/python docs/generator
	$(BIN)/python -m sled_operator.spec.reference docs/reference

clean: ## Remove the environment, caches and state; models stay in the user's cache
	rm -rf $(VENV) .sled .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist

# ---- how ---------------------------------------------------------------------------------------

define stubs
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotocol --python_out=$(1) --grpc_python_out=$(1) \
	  --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) protocol/sled_protocol/v1/verifier.proto
endef

# same NEW OLD COMMAND: every file in NEW is what lies in OLD, else COMMAND is what to run
define same
	@for new in $(1)/*; do cmp -s $$new $(2)/$${new##*/} \
	  || { echo "$(2)/$${new##*/} is not what its source gives: run make $(3)"; exit 1; }; done
endef

.PHONY: check-generated
check-generated:
	@rm -rf $(GENERATED) && mkdir -p $(GENERATED)/crds $(GENERATED)/reference
	@$(call stubs,$(GENERATED))
	$(call same,$(GENERATED)/sled_protocol/v1,protocol/sled_protocol/v1,proto)
	@$(BIN)/python -m sled_operator.spec.crd $(GENERATED)/crds
	$(call same,$(GENERATED)/crds,crds,crds)
	@$(BIN)/python charts/generate.py --check
	@$(BIN)/python docs/generator --check
	@$(BIN)/python -m sled_operator.spec.reference $(GENERATED)/reference
	$(call same,$(GENERATED)/reference,docs/reference,docs)
	@echo "generated files are unchanged"

# A stamp is newer than pyproject.toml while the environment is what it says.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "SLED needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 ..."; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make environments; on Debian and Ubuntu install python3-venv"; rm -rf $(VENV); exit 1; }
	@$(INSTALL) --upgrade pip

$(CLI): pyproject.toml | $(VENV)/bin/python
	@test -e $(DEV) || { echo "installing what sled needs to run (about 80 MB)"; $(INSTALL) -e '.[cli]'; }
	@if test -e $(DEV); then $(MAKE) --no-print-directory $(DEV); fi
	@touch $@

$(DEV): pyproject.toml | $(VENV)/bin/python
	@echo "installing what developers need (about 200 MB)"
	@$(INSTALL) -e '.[dev]'
	@touch $(CLI) $@
