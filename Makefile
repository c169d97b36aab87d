# Every target makes .venv itself when it is missing or older than the pins.
# `make help` lists the targets.

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
BEGUN := $(VENV)/.begun
EXTRAS := dev,bench,pipelines

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test test-kfp test-tfx lint benchmarks experiments bazel clean

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

venv: $(READY) ## Make .venv with everything that development needs.

quickstart: $(READY) ## Pretrain, fine-tune and attack a small encoder.
	$(PYTHON) -m kerobust.train --flagfile=configs/mimir.flags

test: $(READY) ## Run the tests that are not marked slow.
	$(PYTHON) -m pytest -q -m "not slow" -n 2 --dist loadfile \
		--no-loadscope-reorder

test-kfp: $(READY) ## Run the tests of the Kubeflow engine; installs kfp into .venv.
	$(PYTHON) -m pip install -q -c constraints.txt -e '.[$(EXTRAS),kfp]'
	$(PYTHON) -m pytest -q tests/kfp

test-tfx: ## Run the tests of the TFX engine; PYTHON310 names a Python 3.10.
	@$(PYTHON310) -c 'import sys; assert sys.version_info[:2] == (3, 10); import venv' \
		2>/dev/null || { echo "$(NO_PYTHON310)" >&2; exit 3; }
	test -d $(VENV)-tfx || $(PYTHON310) -m venv $(VENV)-tfx
	$(VENV)-tfx/bin/python -m pip install -q -c constraints.txt \
		-e '.[pipelines,tfx]' pytest
	$(VENV)-tfx/bin/python -m pytest -q -W default tests/tfx

lint: $(READY) ## Check format, style and types.
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

benchmarks: $(READY) ## Run every script of benchmarks/ except the experiments.
	@set -e; for script in $$(ls benchmarks/*.py | grep -v -e /_ -e /experiments); do \
		name=$$(basename $$script .py); \
		echo "benchmarks.$$name"; $(PYTHON) -m benchmarks.$$name; \
	done

experiments: $(READY) ## Reproduce docs/results.md; DATA_DIR=DIR adds CIFAR-10.
	$(PYTHON) -m benchmarks.experiments
ifdef DATA_DIR
	$(PYTHON) -m benchmarks.experiments cifar10 --data.dir=$(DATA_DIR)
endif

bazel: $(READY) ## Build BUILD and run four tests with Debian's Bazel, offline.
	$(PYTHON) -m tests.bazel_offline

clean: ## Remove .venv and every cache; keep runs/.
	rm -rf $(VENV) build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `.begun` stands while the environment is being made: found at the start, it says that
# the last attempt was interrupted and that .venv cannot be trusted.
$(READY): setup.py constraints.txt
	@if [ -e $(BEGUN) ] || ! $(PYTHON) -c '$(SUITABLE); import pip' >/dev/null 2>&1; \
		then rm -rf $(VENV); fi
	@if [ ! -d $(VENV) ]; then \
		python=$$($(FIND_PYTHON)) || { echo "$(NO_PYTHON)" >&2; exit 2; }; \
		echo "Making $(VENV) with $$python."; \
		mkdir $(VENV); touch $(BEGUN); "$$python" -m venv $(VENV); \
	fi
	@touch $(BEGUN)
	$(PYTHON) -m pip install -q -c constraints.txt -e '.[$(EXTRAS)]'
	@rm $(BEGUN)
	@touch $(READY)

SUITABLE := import sys; assert (3, 10) <= sys.version_info[:2] <= (3, 11)

# An interpreter with the venv module, such as PYTHON310=/usr/bin/python3.10.
PYTHON310 ?= python3.10

NO_PYTHON310 := PYTHON310 must name a Python 3.10 with its venv module: TFX has no \
release for later ones. Received: PYTHON310=$(PYTHON310).

NO_PYTHON := kerobust needs Python 3.10 or 3.11 with its venv module, \
and none was found on the PATH or among the versions of pyenv.

# Prints the first Python that runs, is 3.11 or 3.10 and can make environments. A shim
# of pyenv exists for every installed version but runs only the selected ones, hence
# the look into the versions themselves.
FIND_PYTHON = { for python in python3.11 python3.10 python3 python \
	"$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.11.*/bin/python \
	"$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.10.*/bin/python; do \
	"$$python" -c '$(SUITABLE); import venv, ensurepip' >/dev/null 2>&1 \
	&& echo "$$python" && exit 0; done; exit 1; }
