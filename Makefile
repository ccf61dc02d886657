# Each target makes what it needs on a machine that has Python >= 3.10 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
NATIVE := $(shell find plugins -path plugins/tests -prune -o -type f -print)
# Of the GPUs that CUDA kernels are compiled for here, where there is an nvcc: one, to be quick, and PTX for later ones.
CUDA_ARCHITECTURES ?= 80

.DEFAULT_GOAL := help
.PHONY: help demo test test-native test-asan test-checked test-emulator test-slow test-long test-gpu networks lint soak cuda-report \
  bench bench-engines bench-cpu bench-gpu bench-serve clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(READY): pyproject.toml constraints.txt $(NATIVE)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]' \
	  -C 'cmake.define.DYNDEPLOY_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)'
	@touch $@

# Configure, build, test: in plugins/CMakePresets.json.
PRESETS = cd plugins && for preset in $(1); do \
  cmake --preset $$preset && cmake --build --preset $$preset --parallel 2 && ctest --preset $$preset --parallel 2 || exit 1; \
done

demo: $(READY)  ## train a small network with all five layers, export it, prove it
	$(BIN)/dyndeploy demo

test: $(READY)  ## every test that needs no GPU, the CUDA kernels under an emulator among them
	$(call PRESETS,emulator)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal  # a process for every core

test-slow: $(READY)  ## every network in full size: exported, checked
	$(BIN)/python -m pytest -m slow tests

test-long: $(READY)  ## what takes a minute each: recipes of whole networks with engines, more reduced networks, what nvcc makes of kernels
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m long tests

networks: $(READY)  ## export every network to bundles/, print the verdicts
	$(BIN)/python samples/export_networks.py

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-asan:  ## the CPU kernels under AddressSanitizer with UBSan
	$(call PRESETS,asan)

test-native: test-asan  ## and under ThreadSanitizer
	$(call PRESETS,tsan)

test-checked:  ## the CUDA kernels on the emulated GPU, under its own checker of races and memory
	$(call PRESETS,emulator-checked)

test-emulator: export DYNDEPLOY_THOROUGH = 1
test-emulator:  ## all shapes in all types on the emulated GPU, under AddressSanitizer with UBSan, and with its own checker
	$(call PRESETS,emulator emulator-checked)

test-gpu: export DYNDEPLOY_THOROUGH = 1
test-gpu: $(READY)  ## on a GPU: the CUDA kernels through the C ABI and in PyTorch, compute-sanitizer
	$(call PRESETS,gpu)
	for tool in memcheck racecheck initcheck; do \
	  for test in build/native-gpu/tests/test_*_gpu; do compute-sanitizer --tool $$tool --error-exitcode 1 $$test 5 || exit 1; done; \
	done
	$(BIN)/python -m pytest -m gpu

soak: $(READY)  ## a server under 10,000 malformed requests, then ten minutes of load, killed clients and new bundles
	$(BIN)/python tests/serving/soak.py

cuda-report: $(READY)  ## registers, spills, shared memory, occupancy, tensor cores: what nvcc made of the CUDA kernels
	$(BIN)/python benchmarks/cuda_report.py

bench: $(READY)  ## latency per runtime of the recipes in export/
	$(BIN)/python benchmarks/cpu.py

bench-engines: $(READY)  ## engines of the recipes for TensorRT for RTX, without a GPU: sizes, seconds, hits
	$(BIN)/python benchmarks/engines.py

bench-cpu: $(READY)  ## the kernels against the fastest peers; what is not installed is left out
	$(BIN)/python benchmarks/cpu_kernels.py

bench-gpu: $(READY)  ## the CUDA kernels against the fastest peers and the roofline, on a GPU
	$(BIN)/python benchmarks/gpu_kernels.py

bench-serve: $(READY)  ## what a server adds to a session, beside LitServe and plain FastAPI
	$(BIN)/python -m pip install --quiet -c constraints.txt fastapi litserve
	$(BIN)/python benchmarks/serve.py

clean:  ## remove the environment and caches
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
