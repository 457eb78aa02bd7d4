# What a developer types. Everything lands in .venv, target and .make, which git does not see; after the first run
# nothing here needs the network.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find rust python -name '*.rs' -o -name '*.toml' -o -name '*.py' -o -name '*.pyi' \
	-o -name '*.schema.json') \
	Cargo.toml Cargo.lock pyproject.toml README.md

.DELETE_ON_ERROR:
.PHONY: demo test test-rust test-python lint build bench docs pins clean

demo: build
	$(BIN)/branchmerge demo demo

test: test-rust test-python

test-rust:
	cargo test --locked --workspace --exclude branchmerge-py
	cargo test --locked --package branchmerge-core --features baseline --lib same_bits_everywhere

test-python: build .make/models
	$(BIN)/python -m pytest -n 2

lint: build
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest branchmerge._core
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --offline check licenses bans sources; \
	else echo "cargo-deny is not installed: licences of crates not checked"; fi

build: .make/built

bench: build
	cargo bench --locked --package branchmerge-core
	cargo bench --locked --package branchmerge-core --features baseline

# The environment, with exactly what requirements/dev.txt names by hash.
.make/environment: requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@mkdir -p .make && touch $@

# What tests run models with, and load results with: some six gigabytes, none of which the product needs.
.make/models: requirements/models.txt .make/environment
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/models.txt
	@touch $@

# The wheel as users get it, in release, installed without its sources beside it.
.make/built: .make/environment $(SOURCES)
	@rm -rf .make/wheels
	$(BIN)/maturin build --quiet --release --locked --interpreter $(BIN)/python --out .make/wheels
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall .make/wheels/*.whl
	@touch $@

# What is made from the methods' specs: their pages, and the schema of recipes.
docs: build
	$(BIN)/branchmerge methods --markdown > docs/methods.md
	$(BIN)/branchmerge schema -o python/branchmerge/branchmerge.schema.json

# Raises the pins to the newest versions; once a month, in a commit of its own.
pins:
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --group dev pyproject.toml -o requirements/dev.txt
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --group models --constraint requirements/dev.txt pyproject.toml \
		-o requirements/models.txt

clean:
	rm -rf .venv .make demo target
