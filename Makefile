# make demo: set up, train on the built-in sample, detect, leave a report to look at.    make test: set up, run all tests.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test test-python test-native oldest newest sanitize lint format stubs bench release clean

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

oldest newest: $(VENV)/.installed
	.ci/versions $@ $(PYTHON)

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

# Wheel and sdist of the last commit, its date the only one in them; the sdist installed where nothing else is, what came
# with it, and whether a weakness is known in any of that.
release: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --group release
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --outdir dist .
	$(BIN)/auditwheel show dist/*.whl
	.ci/clean-install dist/*.tar.gz
	$(BIN)/cyclonedx-py environment build/clean/venv --output-file dist/sbom.json
	build/clean/venv/bin/python -m pip freeze --exclude uflow-cli > dist/requirements.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement dist/requirements.txt

clean:
	rm -rf build $(DEMO) $(VENV)
