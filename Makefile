# `make lab` is all a learner needs and `make test` all a contributor needs; `make help` lists the rest.
PYTHON      ?= python3
VENV        ?= .venv
HOST        ?= 127.0.0.1
PORT        ?=
FRESH       ?=
TORCH       ?= auto
TORCH_INDEX ?=
JOBS        ?= 2

IN        := $(VENV)/bin/
INSTALL   := $(PYTHON) tools/install.py --venv "$(VENV)" --torch "$(TORCH)" --torch-index "$(TORCH_INDEX)"
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# Parallel tests share the cores, so each process keeps to one thread.
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

# Set where `make test` is started from a terminal inside JupyterLab; committed outputs hold no learner's answers.
unexport KVLAB_WORK

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab test install install-test weights lint unit lessons browser lock clean

help:  ## list the targets and variables
	@echo "make TARGET [VARIABLE=value]"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## /  \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo
	@echo "  PORT=8890         where JupyterLab listens (default: the first free port from 8888)"
	@echo "  HOST=127.0.0.1    the address it listens on; it always asks for Jupyter's own token"
	@echo "  FRESH=03          also make a new copy of lesson 03 beside yours"
	@echo "  TORCH=cpu|cuda    which build of torch to install (default: cuda where nvidia-smi is found)"
	@echo "  TORCH_INDEX=URL   where pip also looks for builds of torch"
	@echo "  PYTHON=python3    the Python (3.11 or newer) that makes the environment"

lab: install  ## set up what is missing, then open the course in JupyterLab
	@$(IN)python -m kvlab lab --host "$(HOST)" $(if $(PORT),--port "$(PORT)") $(if $(FRESH),--fresh "$(FRESH)")

test: install-test weights lint unit lessons browser  ## set up what is missing, then run every check

install:  # the environment, for `make lab`
	@$(INSTALL) --extras lab

install-test:  # the environment and the browser, for `make test`
	@$(INSTALL) --extras lab,test
	@tools/chromium.sh

weights:  # both models
	@$(IN)python -m kvlab fetch smollm2-135m gemma3-270m

lint: install-test  ## ruff and mypy
	$(IN)ruff check .
	$(IN)mypy

unit: install-test  ## the tests of the package, in parallel
	$(ONE_THREAD) $(IN)pytest -n $(JOBS) --dist loadfile -m "not alone" --durations 10 tests

lessons: install-test  ## run every notebook and compare every output (strict nbval)
	$(if $(NOTEBOOKS),,$(error no notebooks found in notebooks/))
	$(ONE_THREAD) $(IN)pytest -n $(JOBS) --dist loadfile --nbval --nbval-sanitize-with tests/sanitize.cfg \
	  --nbval-cell-timeout 300 $(NOTEBOOKS)

browser: install-test  ## each lesson in a real JupyterLab in Chromium, and what must run alone
	$(IN)pytest -m alone tests

lock:  ## write constraints.txt anew from pyproject.toml, keeping the pins that still fit
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install -q uv
	UV_CUSTOM_COMPILE_COMMAND="make lock" build/lock/bin/uv pip compile --universal --fork-strategy fewest \
	  --python-version 3.11 --all-extras --no-annotate -o constraints.txt pyproject.toml > build/lock/log

clean:  ## remove the environment and caches; your work/ and the weights stay
	rm -rf "$(VENV)" build .pytest_cache .ruff_cache .mypy_cache .hypothesis
