# One command each; every target that needs the environment sets it up first. `make` lists them.
#   STACK=onedl (default) or STACK=openmmlab   which libraries, each in an environment of its own
#   PYTHON=/path/to/python                     interpreter of the environment (default: a supported one is looked for)
#   ARGS='...'                                 further arguments of the command behind test, demo, demo-det, bench and doctor

STACK ?= onedl
PYTHON ?= python3
ARGS ?=

VENV_onedl := .venv
VENV_openmmlab := .venv-openmmlab
VENV := $(VENV_$(STACK))
PY := $(VENV)/bin/python

# only a PYTHON that somebody chose replaces the interpreter of an environment that exists
CHOSEN := $(if $(filter file default undefined,$(origin PYTHON)),,--python '$(PYTHON)')
SETUP = $(PYTHON) tools/setup_env.py --stack '$(STACK)' $(CHOSEN) $(if $(REBUILD_MMCV),--rebuild-mmcv)

.DEFAULT_GOAL := help
.PHONY: help env ready demo demo-det docs test lint format types bench doctor constraints hooks clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@awk '/^#  / {sub(/^# /, ""); print}' $(MAKEFILE_LIST)

env: has-python  ## Build the virtual environment (.venv, or .venv-openmmlab), at once when it is there
	@$(SETUP)
	@echo "$(VENV) is ready ($(STACK)). Next: make demo, make test, or source $(VENV)/bin/activate"

demo: ready  ## Make a small dataset, train SegViT on it, evaluate it and draw its predictions
	$(PY) tools/demo.py $(ARGS)

demo-det: ready  ## The same for detection: Mask R-CNN with P2T, boxes and masks
	$(PY) tools/demo.py --task det $(ARGS)

docs: ready  ## Build the site of the documentation, build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

# some images forbid Python to keep what it compiles, and each of the tests' processes would compile the libraries anew
test: ready  ## Run the tests
	PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -n 2 --dist worksteal $(ARGS)

lint: ready  ## Check formatting and style
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

format: ready  ## Format the code and mend what can be mended
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: ready  ## Check the types
	$(PY) -m mypy

bench: ready  ## Measure speed and memory against the plain references; fails at the end if a goal was missed
	@case " $(ARGS)" in *" --json"*) echo "make bench: every benchmark would write the same --json file: run one of them"; exit 2;; esac; \
	status=0; for file in $$(grep -l ' = arguments(__doc__' benchmarks/*.py); do \
		name=$$(basename $$file .py); \
		echo "$(PY) -m benchmarks.$$name $(ARGS)"; $(PY) -m benchmarks.$$name $(ARGS) || status=1; \
	done; exit $$status

doctor: ready  ## Check the installed libraries: versions, conflicts, what can be built
	$(PY) -m mmvit_ext.doctor $(ARGS)

hooks: ready  ## Run lint and types before every commit
	$(PY) -m pre_commit install

UV_COMPILE = $(VENV)/bin/uv pip compile --no-config --no-python-downloads --universal --python-version 3.10 \
	--annotation-style line --override requirements/overrides.txt \
	--build-constraint requirements/build-constraints.txt
constraints: ready  ## Choose the pinned versions anew
	$(UV_COMPILE) --upgrade requirements/onedl.in -o requirements/constraints.txt
	$(UV_COMPILE) --upgrade requirements/openmmlab.in -o requirements/constraints-openmmlab.txt

clean:  ## Remove the environments and everything generated, but not the compiled mmcv in uv's cache
	rm -rf .venv .venv-openmmlab build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis mmvit_ext/.mim
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: has-python
has-python:
	@command -v $(PYTHON) >/dev/null || { echo >&2 "$(PYTHON) was not found: install Python 3.11 with its venv module" \
		"(Debian, Ubuntu: apt install python3 python3-venv python3-dev), or name one with PYTHON=/path/to/python."; exit 1; }

ready: has-python
	@$(SETUP)
