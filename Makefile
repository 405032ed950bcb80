# Two commands on a fresh machine: `make train` and `make test`. Each sets up .venv first, once.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready

.PHONY: train test lint docs bench clean

train: $(READY)
	$(BIN)/recsysml train model=gpt2_modern

test: $(READY)
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python scripts/config_reference.py

bench: $(READY)
	$(BIN)/python scripts/bench/run.py

# torch first and by its exact version, so that nothing else chooses another; build tools next, so that
# the packages that come as source are built with pinned tools too.
$(READY): pyproject.toml requirements.lock
	@echo "setting up .venv, once: a few minutes, most of it for torch"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint requirements.lock torch==2.13.0
	$(BIN)/pip install --quiet --constraint requirements.lock setuptools wheel hatchling editables
	$(BIN)/pip install --quiet --constraint requirements.lock --no-build-isolation --editable '.[dev,parallel]'
	touch $(READY)

clean:
	rm -rf .venv
