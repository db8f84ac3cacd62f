# Every target makes its own .venv when it is missing: a fresh machine needs Python 3.11 and a package index.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
EDITOR := .venv/node/package.json

.PHONY: demo test test-long bench bench-families check format clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/mhfl demo $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP) check
	$(BIN)/python scripts/test.py

# What an editor runs; where there is no npm, the tests that need it are skipped and say so.
$(EDITOR): tests/policy/editor/package.json tests/policy/editor/package-lock.json
	mkdir -p .venv/node
	if command -v npm > /dev/null; then cp $^ .venv/node && npm ci --prefix .venv/node --no-audit --no-fund; fi

test-long: $(STAMP) $(EDITOR)
	$(BIN)/python scripts/test.py --long

bench: $(STAMP)
	$(BIN)/python -m benchmarks

bench-families: $(STAMP)
	$(BIN)/mhfl bench $(ARGS)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
