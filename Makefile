# make demo: set up, train on the built-in sample, detect, leave a report to look at.    make test: set up, run all tests.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test test-python test-native sanitize lint format stubs bench release clean

demo: $(VENV)/.installed
	$(BIN)/uflow sample --out $(DEMO)/data
	$(BIN)/uflow train --dataset mvtec --category fabric --data-root $(DEMO)/data --out $(DEMO)/run --epochs 15 --overwrite
	$(BIN)/uflow detect $(DEMO)/data/fabric/test --model $(DEMO)/run --out $(DEMO)/detections
	$(BIN)/uflow evaluate --model $(DEMO)/run --data-root $(DEMO)/data --report $(DEMO)/report

test: test-native test-python

test-python: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2

test-native:
	.ci/system-packages test
	cmake --workflow --preset test

sanitize:
	.ci/system-packages sanitize
	cmake --workflow --preset sanitize
	cmake --workflow --preset tsan
	cmake --workflow --preset fuzz

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.hpp' '*.cpp')

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.hpp' '*.cpp')

$(VENV)/.installed: pyproject.toml CMakeLists.txt $(wildcard cpp/*.cpp cpp/uflow/*.hpp)
	.ci/system-packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	.ci/system-packages test
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

stubs: $(VENV)/.installed-dev
	$(BIN)/python -m pybind11_stubgen uflow_cli._core --output-dir build/stubs
	cp build/stubs/uflow_cli/_core.pyi uflow_cli/_core.pyi
	$(BIN)/ruff format uflow_cli/_core.pyi

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/nfa.py

# Wheel and sdist of the last commit, its date the only one in them; what they need and whether a weakness is known in it.
release: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --group release
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --outdir dist .
	$(BIN)/auditwheel show dist/*.whl
	$(BIN)/cyclonedx-py environment $(VENV) --output-file dist/sbom.json
	$(BIN)/pip-audit --skip-editable

clean:
	rm -rf build $(DEMO) $(VENV)
