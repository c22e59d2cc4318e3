# One way to install and to check, the same for a newcomer and for continuous integration.
#
#   make demo     install, then run the whole line on the embedded questions
#   make test     install what the tests need, then run them all
#   make test-gpu the tests that need a CUDA device, and only those
#   make browser  install Chromium, which the tests of pages need (Debian, as root)
#   make bench    measure speed on the CPU, against other libraries: stops at 40 minutes
#   make bench-gpu measure it on an NVIDIA GPU: stops at 9 minutes
#   make bench-gpu-scout  Llama 4 Scout's whole shape there, from 80 GB on: stops at 8 minutes
#   make notebook execute the notebook, and keep its outputs in it
#   make lint     style, spelling and the direction of imports
#   make types    mypy, strict
#   make format   rewrite the files as the style wants them
#   make clean    remove the environment and every cache; runs/ stays
#
# Another interpreter: make test PYTHON=python3.12. Another environment: make test VENV=/tmp/venv.
# Files of questions for the bench: make bench QUESTIONS="openquizz_fr.jsonl piaf_train.json".

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt
# As pip would, but on every core, and only the largest of what is always imported: the rest is compiled
# when it is imported first. What cannot be compiled are packages' templates.
PACKAGES := $(VENV)/lib/*/site-packages
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(PACKAGES)/torch $(PACKAGES)/transformers || true
FOR_USE := $(VENV)/.installed-data-convert-serve
FOR_DEVELOPMENT := $(VENV)/.installed-data-convert-serve-dev
FOR_BENCH := $(VENV)/.installed-data-convert-serve-dev-bench

# The least float32 rate, in GFLOP/s, of a run that is kept; FLOOR=0 keeps all.
FLOOR ?= 140
THREADS ?= 2
QUESTIONS ?= openquizz_fr.jsonl piaf_train.json

.PHONY: demo test test-gpu browser bench bench-gpu bench-gpu-scout notebook lint types format install clean

demo: $(FOR_USE)
	$(BIN)/quatrain demo

# A file's tests stay in one process, so that what they share is made once; files come in order, or
# the few long tests would come last. The processes share the cores: a thread that waits for another
# sleeps, where it would keep a core busy.
test: $(FOR_DEVELOPMENT)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
	  --dist loadfile --no-loadscope-reorder

test-gpu: $(FOR_DEVELOPMENT)
	$(BIN)/python -m pytest -m gpu

browser:
	command -v chromium || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }

# Tables are written of what there is when a part failed, too.
bench: $(FOR_BENCH)
	$(BIN)/python bench/cpu.py $(QUESTIONS) --threads $(THREADS) --floor $(FLOOR) --save; \
	  status=$$?; $(BIN)/python bench/tables.py; exit $$status

bench-gpu: $(FOR_BENCH)
	$(BIN)/python bench/gpu.py --save; \
	  status=$$?; $(BIN)/python bench/tables.py; exit $$status

bench-gpu-scout: $(FOR_BENCH)
	$(BIN)/python bench/gpu_scout.py --save; \
	  status=$$?; $(BIN)/python bench/tables.py; exit $$status

notebook: $(FOR_DEVELOPMENT)
	$(BIN)/python .ci/notebook.py "NLP - Llama 4 - SFT.ipynb" "NLP - Llama 4 - SFT.ipynb"

# ruff keeps how imports sort in its cache, also when a new file makes a module ours: no cache.
lint: $(FOR_DEVELOPMENT)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports

types: $(FOR_DEVELOPMENT)
	$(BIN)/mypy

format: $(FOR_DEVELOPMENT)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(FOR_DEVELOPMENT)

clean:
	rm -rf $(VENV) build dist src/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp says what was installed; it is older than its sources only when they have changed.
$(FOR_USE): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[data,convert,serve]'
	$(COMPILE)
	touch $@

$(FOR_DEVELOPMENT): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[data,convert,serve,dev]'
	$(COMPILE)
	touch $(FOR_USE) $@

$(FOR_BENCH): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[data,convert,serve,dev,bench]'
	$(COMPILE)
	touch $(FOR_USE) $(FOR_DEVELOPMENT) $@
