# Everything a newcomer or a contributor runs. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TARGETS := --on h100 --on mi300x --on tpu-v5p --on ascend-910b

.PHONY: help install install-dev demo test check fix bench size docs lock torch-matrix real-programs megatron truth clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "anychip needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# --no-build-isolation: the build backend comes from the lock like everything else.
$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@touch $@

install: $(VENV)/.installed ## the environment in .venv, from requirements.lock

install-dev: $(VENV)/.installed-dev ## the same, with the tools for tests and checks

demo: install ## forecast the CUDA training script of examples/ on four vendors' chips
	$(BIN)/anychip forecast $(TARGETS) examples/train_gpt_cuda.py

test: install-dev ## install and run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

check: install-dev ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict anychip

fix: install-dev ## let the formatter and the linter repair what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/anychip chips check --fix

bench: install-dev ## speed of our own code, compared with the saved base
	@for file in bench/bench_*.py; do $(BIN)/python $$file || exit 1; done

size: install ## lines by package, and what changed against main
	@$(BIN)/python tools/size.py

ROWS := --rows accuracy/published/nvidia.csv --rows accuracy/published/other.csv

accuracy: install $(VENV)/.installed-megatron ## forecast every published run (hours when cold, resumes), write docs/accuracy-runs.md
	$(BIN)/python -m accuracy $(ROWS) --json accuracy/results.json --page docs/accuracy-runs.md

accuracy-serving: install ## forecast published runs that generate text, write docs/accuracy-serving.md
	$(BIN)/python -m accuracy --rows accuracy/published/inference.csv --page docs/accuracy-serving.md \
	  --validated anychip/standard/validated-calls.csv

accuracy-ci: install ## a few published runs against stored bounds, in minutes
	$(BIN)/python -m accuracy $(ROWS) --bounds accuracy/bounds.csv

$(VENV)/.installed-megatron: requirements-megatron.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-megatron.txt
	@touch $@

megatron: install-dev $(VENV)/.installed-megatron ## add megatron-core, the program of Megatron's published runs, and compare it with the reference transformer
	$(BIN)/python -m pytest -q tests/published/test_megatron.py

docs: install ## write again what is generated: pages of chips, tables, the demo, the walkthrough
	@$(BIN)/python tools/docs.py

lock: install-dev ## write the lock files from what .venv holds
	$(BIN)/python tools/lock.py

torch-matrix: ## the fast tests on three builds of torch; says plainly which ran
	@PYTHON=$(PYTHON) bash tools/torch-matrix

real-programs: install ## public programs in ../programs or $$ANYCHIP_PROGRAMS: audited, forecast, ported and run again; says which are absent
	@$(BIN)/python tools/audit_programs.py
	@PYTHON=$(PYTHON) bash tools/real-programs
	@TOOL=tools/port_programs.py PYTHON=$(PYTHON) bash tools/real-programs

truth: install ## measure this CPU, forecast the examples on it, run them, print the errors (--keep: accuracy/truth.csv)
	$(BIN)/python accuracy/truth.py $(TRUTH)

clean: ## remove the environments and caches
	rm -rf .venv .venv-torch-* .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
