# Each target makes what it needs on a machine that has Python >= 3.10 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
NATIVE := $(shell find plugins -path plugins/tests -prune -o -type f -print)

.DEFAULT_GOAL := help
.PHONY: help demo test test-native test-slow networks lint bench bench-cpu clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(READY): pyproject.toml constraints.txt $(NATIVE)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## train a small network with all five layers, export it, prove it
	$(BIN)/dyndeploy demo

test: $(READY)  ## every test
	$(BIN)/python -m pytest -n auto

test-slow: $(READY)  ## every network in full size: exported, checked
	$(BIN)/python -m pytest -m slow tests

networks: $(READY)  ## export every network to bundles/, print the verdicts
	$(BIN)/python samples/export_networks.py

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-native:  ## the kernels under AddressSanitizer with UBSan, and under ThreadSanitizer
	cd plugins && for preset in asan tsan; do \
	  cmake --preset $$preset && cmake --build --preset $$preset --parallel 2 && ctest --preset $$preset || exit 1; \
	done

bench: $(READY)  ## latency per runtime of the recipes in export/
	$(BIN)/python benchmarks/cpu.py

bench-cpu: $(READY)  ## the kernels against the fastest peers; what is not installed is left out
	$(BIN)/python benchmarks/cpu_kernels.py

clean:  ## remove the environment and caches
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
