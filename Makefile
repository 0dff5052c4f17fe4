# CONTRIBUTING.md explains each target. PYTHON chooses the interpreter, CC the compiler.
PYTHON ?= python
BUILD ?= --inplace
PYTEST = $(PYTHON) -m pytest -n 2 --dist loadfile
QUICK = api engine ops mini cli files server
ASAN = engine ops api safetensors
ARM_PRODUCTS = tests/test_int8.py::test_products_have_the_oracles_bits tests/test_int8.py::test_extreme_activations \
	tests/test_int8.py::test_what_is_not_finite_stays_in_its_row tests/test_gguf.py::test_products_have_the_oracles_bits
C_FILES = git ls-files '*.c' '*.h' '*.cu' '*.cuh'
ARCHS ?= release
files = $(foreach name,$(1),tests/test_$(name).py)
wheel_for = QWEN3_EMBED_TARGET=$(1)-linux-gnu.2.28 $(PYTHON) -m pip wheel -q --no-deps --no-build-isolation \
		-w build/release dist/*.tar.gz && \
	$(PYTHON) -m auditwheel repair -w dist --exclude libcublasLt.so.13 build/release/*_$(1).whl

.PHONY: build quick test test-all test-rest clients lint docs docs-pages asan arm fuzz bench gpu wheel release

build:
	$(PYTHON) setup.py -q build_ext $(BUILD)

quick: build
	$(PYTEST) $(call files,$(QUICK))

test: build
	$(PYTEST)

test-all test-rest: build clients
	$(PYTHON) -m pip install -q --group test-all
	$(PYTEST) -rs $(if $(filter test-rest,$@),--skipped)

clients:
	for name in clients clients-cohere5; do \
		$(PYTHON) -m venv --without-pip build/$$name && \
		$(PYTHON) -m pip --python build/$$name/bin/python install -q --group $$name || exit 1; \
	done

lint:
	ruff check .
	ruff format --check .
	$(C_FILES) | xargs clang-format --dry-run -Werror
	mypy

docs: # CI's step: the site in build/site; warnings and broken links are errors
	$(PYTHON) -m benchmarks.figures --check
	$(PYTHON) -m zensical build --clean --strict

docs-pages: docs # every page in Chromium, at the widths of a desktop and a phone, light and dark
	$(PYTHON) -m tests.look_at_site

asan:
	CC=gcc QWEN3_EMBED_SANITIZE=address,undefined $(PYTHON) setup.py -q build_ext --inplace --force --build-temp build/asan
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 PYTHONMALLOC=malloc \
		$(PYTEST) -p no:cacheprovider $(call files,$(ASAN))
	rm -f qwen3_embed/_core*.so
	$(MAKE) build

arm: build
	QE_TEST_ARM=max $(PYTEST) $(call files,arm gemm) $(ARM_PRODUCTS)
	QE_TEST_ARM=neoverse-n1 $(PYTEST) $(call files,arm gemm c_mutants) $(ARM_PRODUCTS)

fuzz:
	$(PYTHON) -m tests.fuzz_loader --seconds 60

bench: build
	$(PYTHON) -m benchmarks.mini
	$(PYTHON) -m benchmarks.query
	$(PYTHON) -m benchmarks.throughput

gpu:
	tests/cuda/run_gpu.sh

wheel:
	$(PYTHON) -m pip wheel -q --no-deps --no-build-isolation -w dist .

release:
	rm -rf dist build/release
	$(PYTHON) -m build -q --sdist --no-isolation
	QWEN3_EMBED_CUDA=1 QWEN3_EMBED_CUDA_ARCHS="$(ARCHS)" $(call wheel_for,x86_64)
	QWEN3_EMBED_CUDA=0 $(call wheel_for,aarch64)
