# Needs Python >= 3.11 and make, nothing else. PYTHON=python3.12, PORT=9000 and VENV=folder may be set.
PYTHON ?= python3
PORT ?=
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt
ASKS_FOR := pyproject.toml constraints.txt
DEMO_READY := $(VENV)/.demo-ready
TEST_READY := $(VENV)/.test-ready

.PHONY: help demo test test-fast bench lint format vendor clean

help:
	@echo "make demo       a live prediction on a map (PORT=8000)"
	@echo "make test       every test that needs no special hardware"
	@echo "make test-fast  the same without the slow ones"
	@echo "make bench      what serving costs, against peers (ARGS='--quick --json')"
	@echo "make lint       ruff and mypy;   make format  lets ruff rewrite"
	@echo "make vendor     fetch the map page's OpenLayers, if it is missing"
	@echo "make clean      remove the environment, the demo's scene and the vendored files"

demo: $(DEMO_READY)
	@$(BIN)/python -m tiler.vendor >/dev/null || true
	@$(BIN)/tiler demo $(if $(PORT),--port $(PORT))

test: $(TEST_READY)
	@$(BIN)/python -m tiler.vendor >/dev/null || true
	$(BIN)/python -m pytest -m "not gpu" -n auto --dist loadfile

test-fast: $(TEST_READY)
	$(BIN)/python -m pytest -m "not slow and not gpu" -n auto --dist loadfile

bench: $(TEST_READY)
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(TEST_READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

vendor: $(BIN)/python
	$(BIN)/python -m tiler.vendor

clean:
	rm -rf $(VENV) .venv-lowest .demo static/vendor dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11, or not there: say make PYTHON=python3.12 ..."; exit 1; }
	@echo "Making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# The stamps make a second call quick; they are older than what they were made from after a pull.
$(DEMO_READY): $(ASKS_FOR) | $(BIN)/python
	@echo "Installing into $(VENV) (the first time takes a few minutes)"
	@$(PIP) -e '.[torch,openvino]'
	@touch $@

$(TEST_READY): $(ASKS_FOR) | $(BIN)/python
	@echo "Installing with the test tools into $(VENV) (the first time takes a few minutes)"
	@$(PIP) -e '.[torch,openvino,redis,test,dev]'
	@touch $@ $(DEMO_READY)
