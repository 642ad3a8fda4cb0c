# Everything that README, CI and the GitHub workflow run. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := operator:.
# Two test processes: each has a control plane of its own.
PYTEST_WORKERS ?= 2
ACTIONLINT := v1.7.12

# The operator's image, and its base: see deploy/build-image.sh.
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' operator/disaggregatedset/__init__.py)
IMAGE ?= disaggregatedset:$(VERSION)

.PHONY: help
help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The virtual environment, exactly as locked.
$(VENV)/.synced: uv.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.11,<1"
	@UV_PROJECT_ENVIRONMENT=$(VENV) $(BIN)/uv sync --locked --inexact --quiet
	@touch $@

.PHONY: venv
venv: $(VENV)/.synced ## Make the virtual environment

.PHONY: demo
demo: venv ## Show a set become Available on a real control plane
	@$(BIN)/python -m e2e.demo up $(if $(SAMPLE),--sample $(SAMPLE))

.PHONY: demo-down
demo-down: venv ## End what demo left running
	@$(BIN)/python -m e2e.demo down

.PHONY: test
test: venv ## Run all tests
	@$(BIN)/python -m e2e.cluster build
	@$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal --cov --cov-report=term $(ARGS)

.PHONY: lint
lint: venv ## Check style, types, layers and generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m disaggregatedset.api.crd --check
	$(BIN)/python -m charts.generate --check
	$(BIN)/shellcheck .ci/run deploy/*.sh e2e/*.sh
	$(BIN)/zizmor --offline --quiet .github
	go run github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT) -shellcheck=$(BIN)/shellcheck -pyflakes=

.PHONY: format
format: venv ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: generate
generate: venv ## Generate the CRDs from the models, and the chart from those
	$(BIN)/python -m disaggregatedset.api.crd
	$(BIN)/python -m charts.generate

.PHONY: image
image: ## Build the image and its SBOM (IMAGE=name, BASE=image or debian)
	@IMAGE=$(IMAGE) BASE=$(BASE) deploy/build-image.sh

.PHONY: image-test
image-test: BASE := $(or $(BASE),any)
image-test: venv image ## Build the image and test it
	@$(BIN)/python -m e2e.cluster build
	@DSET_IMAGE=$(IMAGE) DSET_IMAGE_BASE=$(BASE) $(BIN)/python -m pytest tests/image $(ARGS)

.PHONY: image-uv
image-uv: venv ## Take the newest uv to build the image with
	@sed -n '/^#/p' deploy/uv.txt >deploy/uv.txt.new
	@echo 'uv>=0.11,<1' | $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate - >>deploy/uv.txt.new
	@mv deploy/uv.txt.new deploy/uv.txt

# It fails also where it can't find out: silence would look like safety.
.PHONY: audit
audit: venv ## Look for known vulnerabilities of what is locked
	@mkdir -p build
	@$(BIN)/uv export --quiet --locked --all-groups --no-emit-project --no-header --output-file build/locked.txt
	$(BIN)/uv run --quiet --isolated --only-group audit pip-audit --strict --require-hashes --disable-pip \
	  -r build/locked.txt -r deploy/uv.txt

.PHONY: bench
bench: venv ## Measure the operator beside the floor
	$(BIN)/python -m e2e.bench $(ARGS)

.PHONY: clean
clean: ## Remove what was made here; the cache of built binaries stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
