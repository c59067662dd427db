# What a person types is what CI runs.
#
#   make demo       the demonstration application on http://127.0.0.1:8000
#   make test       everything tests need, then all tests      (PYTEST_ARGS="-k codec -x")
#   make matrix     the checks behind every web server, then README's table of them
#   make docs       the documentation as a site, build/site/index.html
#   make lint types coverage sanitize sdist wheel clean
#   make bench      benchmarks, then fastfcgi beside other servers (BENCH_ARGS="--quick")
#   make bench-gate the benchmarks against those of BASE       (BASE=HEAD~1, GATE_ARGS="--turns 9")
#
# PYTHON names the interpreter that .venv is made from, VENV another place for it.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
GATE_ARGS ?=
# Where this branch began, or the last commit.
BASE ?= $(shell git merge-base HEAD origin/main 2>/dev/null || echo HEAD)
# Those that drive the C hardest; memory limits of whole processes mean nothing under sanitizers.
SANITIZE_TESTS ?= tests/test_scgi.py $(wildcard $(addprefix tests/test_, $(addsuffix *.py, \
	acceptor body captures channel codec connection engine environ file_wrapper guard handoff head \
	load outbox poller request retire scgi_c scgi_server spec_wsgi upload wsgi)))

bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check install --quiet
cython := $(wildcard fastfcgi/*.pyx fastfcgi/*.pxd)
export PYTHONUTF8 = 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo servers test matrix lint types docs bench bench-gate coverage sanitize sdist wheel clean distclean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# --- environment -----------------------------------------------------------------------------

$(bin)/python:
	@.ci/python-ready $(PYTHON)
	$(PYTHON) -m venv $(VENV)

# Editable: Python files are used where they lie; extensions are compiled again when they change.
$(VENV)/.package: $(bin)/python pyproject.toml setup.py $(cython) $(wildcard fastfcgi/*.pxi fastfcgi/*.h)
	$(pip) --editable .
	@touch $@

# The package is there already, so this adds what the extra asks for and compiles nothing.
$(VENV)/.extra-%: $(VENV)/.package
	$(pip) 'fastfcgi[$*]'
	@touch $@

$(VENV)/.build: $(bin)/python
	$(pip) 'build>=1.2'
	@touch $@

venv: $(VENV)/.extra-test $(VENV)/.extra-lint

# --- using it --------------------------------------------------------------------------------

demo: $(VENV)/.package
	$(bin)/fastfcgi demo $(DEMO_ARGS)

# --- checking it -----------------------------------------------------------------------------

servers:
	@tests/install-servers.sh || echo "Tests that need what is missing are skipped (with CI=true they fail)."

test: servers $(VENV)/.extra-test
	$(bin)/python -m pytest $(PYTEST_ARGS)

# CI=true: what is not installed is a failure, not a cell that nobody has run.
matrix: servers $(VENV)/.extra-test
	CI=true $(bin)/python -m pytest $(filter-out %_table.py,$(wildcard tests/test_matrix_*.py)) \
		--junitxml=build/matrix.xml -o junit_family=xunit1 $(PYTEST_ARGS)
	$(bin)/python tests/matrix_table.py build/matrix.xml README.md

lint: $(VENV)/.extra-lint
	$(bin)/ruff check .
	PATH="$(abspath $(bin)):$$PATH" cython-lint $(cython)
	sh -n .ci/python-ready && sh -n tests/install-servers.sh && bash -n .ci/run
	$(bin)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(bin)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(bin)/zizmor --offline --quiet .github

types: $(VENV)/.extra-lint
	$(bin)/mypy --strict fastfcgi
	$(bin)/python -m mypy.stubtest $(patsubst fastfcgi/%.pyx,fastfcgi.%,$(filter %.pyx,$(cython))) \
		--allowlist tests/stubtest-allowlist.txt --ignore-unused-allowlist

# Any warning is an error: a link or an anchor that leads nowhere, a page that is not in the navigation.
docs: $(VENV)/.extra-docs
	$(bin)/python -m mkdocs --quiet build --strict
	@echo "The documentation is in build/site/index.html"

# uWSGI and bjoern are compiled; what does not install here is left out of the comparison.
$(VENV)/.servers: $(bin)/python
	for server in flipflop fcgisgi uwsgi bjoern gunicorn waitress; do $(pip) $$server \
		|| echo "$$server cannot be installed here: the comparison goes on without it"; done
	@touch $@

bench: $(VENV)/.extra-bench $(VENV)/.servers
	$(bin)/python -m pytest bench/ --benchmark-columns=min,median,ops,rounds $(PYTEST_ARGS)
	mkdir -p build
	$(bin)/python -m bench.servers --markdown build/bench.md --json build/bench.json \
		--svg build/bench.svg $(BENCH_ARGS)
	@cat build/bench.md

# Both trees are built as wheels, so the package in the environment plays no part.
bench-gate: $(VENV)/.extra-bench
	$(bin)/python -m bench.gate --base $(BASE) $(GATE_ARGS)

# Instrumented builds happen in a copy of the tree: a traced extension left behind in fastfcgi/ would
# be found by the next benchmark.
copy = rm -rf build/$(1) && mkdir -p build/$(1) && tar -cf - --exclude='*.so' --exclude='*.c' \
	--exclude=__pycache__ pyproject.toml setup.py README.md LICENSE fastfcgi tests | tar -xf - -C build/$(1)

coverage: $(VENV)/.extra-coverage
	$(call copy,coverage)
	cd build/coverage && FASTFCGI_COVERAGE=1 $(abspath $(bin))/python setup.py -q build_ext --inplace
	cd build/coverage && PYTHONPATH=$(CURDIR)/build/coverage \
		$(abspath $(bin))/python -m coverage run -m pytest -m "not packaging" $(PYTEST_ARGS)
	cd build/coverage && $(abspath $(bin))/python -m coverage combine --quiet
	cd build/coverage && $(abspath $(bin))/python -m coverage report

# Leaks are not looked for: the interpreter keeps memory until it ends, by design, and what is freed
# waits in quarantine. A size that no machine has is answered with NULL, as malloc does; a fault
# kills, as a test of ours expects. --capture=sys lets a report through that ends the run.
sanitize: $(VENV)/.extra-test
	$(call copy,sanitize)
	cd build/sanitize && FASTFCGI_SANITIZE=1 $(abspath $(bin))/python setup.py -q build_ext --inplace
	cd build/sanitize && PYTHONPATH=$(CURDIR)/build/sanitize PYTHONMALLOC=malloc \
		LD_PRELOAD="$$($(or $(CC),cc) -print-file-name=libasan.so)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:handle_segv=0 \
		UBSAN_OPTIONS=print_stacktrace=1 \
		$(abspath $(bin))/python -m pytest --capture=sys $(SANITIZE_TESTS) \
		--deselect tests/test_codec_memory.py::test_nothing_leaks \
		--deselect tests/test_connection_memory.py::test_nothing_leaks $(PYTEST_ARGS)

# --- releasing it ----------------------------------------------------------------------------

sdist: $(VENV)/.build
	rm -rf dist
	$(bin)/python -m build --sdist

# From the sdist, so that a file missing there is noticed here.
wheel: sdist
	$(bin)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir dist dist/*.tar.gz

# Without their stamp the extensions are built again by the next target that needs it.
clean:
	rm -f .venv*/.package $(VENV)/.package
	rm -rf build dist wheelhouse *.egg-info fastfcgi/*.so fastfcgi/*.pyd fastfcgi/*.c \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage .coverage.* htmlcov
	find fastfcgi tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
