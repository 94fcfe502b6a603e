# make demo: set up, train on real text, write a page that shows the result.   make test: set up, pass the tests.
# make check: format, lint, types, imports, documentation.   make bench: us beside each peer.
# make docs: the documentation as a site, in build/site.
# make notebooks: the tutorials as Jupyter notebooks, in build/notebooks.
# make fuzz: damaged files for every reader, killed saves and full disks, for some minutes.
# make check-native: the native code under the address, undefined-behaviour and thread sanitizers.
# make check-platforms: compiles the native code, but for the bindings, for other systems; runs nothing there.
# make check-arm: the native tests built for Linux on ARM and run by qemu-aarch64: the same bits.
# make test-backends: the Keras tests on JAX and TensorFlow in full, where make test runs every test
#                     there, but of a test's cases the first and every 40th after that.
# make test-versions: a short test of every supported version of the frameworks, each in an environment.
# make test-gpu: the tests of tables on a GPU, on the GPU, in .venv or with PYTHON_GPU, an interpreter that
#                has rowwise, its tests' needs and a CUDA build of PyTorch. make bench-gpu: us beside peers.
# make test-oldest: the same of the oldest NumPy and the oldest Keras, half a minute.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SOURCES := $(shell find src native -type f -not -name '*.pyc') CMakeLists.txt pyproject.toml constraints.txt

CPP := $(shell find native tests/native benchmarks -name '*.hpp' -o -name '*.cpp')

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

export KERAS_BACKEND = torch
export TF_CPP_MIN_LOG_LEVEL = 3

.PHONY: demo test test-backends test-gpu bench-gpu test-versions test-oldest check docs notebooks check-native check-platforms check-arm bench fuzz clean

demo: $(VENV)/.installed
	@mkdir -p demo
	$(BIN)/python examples/python_docs.py demo/python_docs.csv
	$(BIN)/rowwise train demo/python_docs.csv --text text --label label --out demo/model --force
	$(BIN)/rowwise predict demo/model "a socket that waits for a connection" --top 3 --probabilities
	$(BIN)/rowwise quantize demo/model --out demo/small --force --test-file demo/python_docs.csv
	$(BIN)/rowwise report demo/model --title "Python's own documentation"

test: $(VENV)/.installed  # on two workers, a core each; Keras's backends in processes of their own
	$(PYTEST)
	KERAS_BACKEND=jax $(PYTEST) tests/jax tests/test_docs.py tests/keras --every 40
	KERAS_BACKEND=tensorflow $(PYTEST) tests/keras --every 40

test-backends: $(VENV)/.installed
	KERAS_BACKEND=jax $(PYTEST) tests/jax tests/keras
	KERAS_BACKEND=jax ROWWISE_JAX_HANDLERS=0 $(PYTEST) tests/jax \
	  tests/keras/test_jax.py tests/keras/test_bad_ids.py
	KERAS_BACKEND=tensorflow $(PYTEST) tests/keras

PYTHON_GPU ?= $(BIN)/python
HAS_GPU = $(PYTHON_GPU) -c "import sys, torch; torch.cuda.is_available() or sys.exit('no GPU: PyTorch ' + \
  torch.__version__ + ' sees none; nothing was run')"
GPU_TESTS := $(addprefix tests/torch/test_, device_kernels.py device_modules.py host_rows.py) \
  tests/keras/test_device.py
SANITIZER := $(shell command -v compute-sanitizer)

test-gpu:
	@$(HAS_GPU)
	KERAS_BACKEND=torch ROWWISE_TEST_DEVICE=cuda:0 $(PYTHON_GPU) -m pytest $(GPU_TESTS)
ifneq ($(SANITIZER),)
	for tool in memcheck racecheck; do \
	  KERAS_BACKEND=torch ROWWISE_TEST_DEVICE=cuda:0 PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(SANITIZER) --tool $$tool \
	    --error-exitcode 1 $(PYTHON_GPU) -m pytest $(GPU_TESTS) -k "adam or bag or bags" || exit 1; \
	done
else
	@echo "compute-sanitizer is not there: accesses to the GPU's memory were not checked"
endif

bench-gpu:
	@$(HAS_GPU)
	$(PYTHON_GPU) benchmarks/gpu.py

test-versions: $(VENV)/.installed
	$(BIN)/python tests/versions/run.py

test-oldest: $(VENV)/.installed
	$(BIN)/python tests/versions/run.py --oldest

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory docs

docs: $(VENV)/.installed  # fails on a dead link, and on a public name without docstring or place
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: $(VENV)/.installed
	@mkdir -p build/notebooks
	for page in $(filter-out %/index.md,$(wildcard docs/tutorials/*.md)); do \
	  $(BIN)/jupytext --quiet --to notebook --output build/notebooks/$$(basename $$page .md).ipynb $$page \
	    || exit 1; \
	done

check-native: build/address,undefined/check build/thread/check
	build/address,undefined/check
	build/thread/check

PLATFORMS := aarch64-linux-gnu x86_64-linux-musl aarch64-macos x86_64-macos x86_64-windows-gnu
ZIG := build/zig/bin/python -m ziglang c++ -std=c++20 -Inative -ffp-contract=off

build/zig/bin/python-zig:
	test -x build/zig/bin/python || $(PYTHON) -m venv build/zig
	build/zig/bin/pip install --quiet ziglang==0.17.1

check-platforms: build/zig/bin/python-zig  # some minutes
	for platform in $(PLATFORMS); do \
	  for source in $(filter-out native/bindings/%,$(filter native/%.cpp,$(CPP))); do \
	    $(ZIG) -target $$platform -c $$source -o build/zig/compiled.o || exit 1; \
	  done; echo "$$platform compiles"; \
	done

check-arm: build/zig/bin/python-zig $(VENV)/.installed  # some minutes; needs qemu-aarch64-static
	$(BIN)/cmake -S . -B build/arm -DROWWISE_TOOLS=ON -DCMAKE_SYSTEM_NAME=Linux \
	  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_BUILD_TYPE=Release -DCMAKE_EXE_LINKER_FLAGS=-static \
	  "-DCMAKE_CXX_COMPILER=$(CURDIR)/build/zig/bin/python-zig;c++;-target;aarch64-linux-musl"
	$(BIN)/cmake --build build/arm --target check --parallel 2
	qemu-aarch64-static build/arm/check

build/%/check: $(SOURCES) $(wildcard tests/native/*) $(VENV)/.installed
	$(BIN)/cmake -S . -B build/$* -DROWWISE_TOOLS=ON -DROWWISE_SANITIZE=$* -DCMAKE_BUILD_TYPE=Debug
	$(BIN)/cmake --build build/$* --target check --parallel 2

build/tools/limit: $(SOURCES) $(wildcard tests/native/*) benchmarks/limit.cpp $(VENV)/.installed
	$(BIN)/cmake -S . -B build/tools -DROWWISE_TOOLS=ON
	$(BIN)/cmake --build build/tools --target limit --parallel 2

bench: build/tools/limit build/peers/.installed
	build/peers/bin/python benchmarks/peers.py --write
	build/peers/bin/python benchmarks/pooled.py

fuzz: $(VENV)/.installed
	$(BIN)/pip install --quiet atheris
	$(BIN)/python fuzz/readers.py --seconds 10
	$(BIN)/python fuzz/tables.py --inputs 2000
	$(BIN)/python fuzz/kill.py --kills 100
	$(BIN)/python fuzz/full_disk.py

build/peers/.installed: $(SOURCES) benchmarks/requirements.txt
	test -x build/peers/bin/python || $(PYTHON) -m venv build/peers
	build/peers/bin/pip install --quiet --upgrade pip
	build/peers/bin/pip install --quiet --requirement benchmarks/requirements.txt .
	build/peers/bin/pip install --quiet --no-deps fbgemm-gpu-cpu==1.8.0  # else it brings CUDA
	@touch $@

$(VENV)/.installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	rm -rf $(VENV)/wheel
	ROWWISE_JAX=1 $(BIN)/pip wheel --quiet --no-deps --wheel-dir $(VENV)/wheel .
	$(BIN)/pip install --quiet --constraint constraints.txt "$$(echo $(VENV)/wheel/*.whl)[dev,bench]"
	$(BIN)/pip install --quiet --no-deps --force-reinstall $(VENV)/wheel/*.whl  # its version is there
	@touch $@

clean:
	rm -rf $(VENV) build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
