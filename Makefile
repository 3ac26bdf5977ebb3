# make run    start the app at http://127.0.0.1:7860
# make test   lint, types and tests
# make bench  the benchmarks that need no hand (see benchmarks/)

# The first interpreter that really is 3.11 or 3.12.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: run test check weights bench clean

run: weights
	$(PY) app.py $(ARGS)

test: $(VENV)/.dev weights check
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile -q $(ARGS)

check: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

weights: $(VENV)/.app
	$(PY) -m core.weights

bench: $(VENV)/.dev weights
	$(PY) -m benchmarks

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Sightloop needs Python 3.11 or 3.12. Install one, or name it: make run PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app: $(VENV)/bin/python requirements.txt
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.app requirements-dev.txt
	$(PY) -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV)
