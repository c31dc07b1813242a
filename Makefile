# Every target sets up what it needs. `make help` lists them.

PYTHON_IN_VENV := .venv/bin/python
INSTALLED := .venv/installed
PACKAGES := cxp2p cxp2p_node cxp2p_gateway demo benchmarks simulations
TYPES := MYPYPATH=node:gateway:tests $(PYTHON_IN_VENV) -m mypy
PYTEST := $(PYTHON_IN_VENV) -m pytest
SIDE_BY_SIDE := -n auto --dist worksteal  # the slow ones start programs that want all cores themselves
CONFTESTS := $(wildcard tests/conftest.py tests/*/conftest.py)  # of one name: mypy takes them one by one

.DEFAULT_GOAL := help

demo: $(INSTALLED) ## Start a whole network here, ask it, print the answers and the verified receipts
	$(PYTHON_IN_VENV) -m demo

up: $(INSTALLED) ## Start the same network and leave it running; PORT=8081 takes another port
	$(PYTHON_IN_VENV) -m demo up $(if $(PORT),--port $(PORT))

test: $(INSTALLED) ## Run all tests, quick ones first; TESTS="tests/cxp2p -k wire" passes arguments to pytest
ifdef TESTS
	$(PYTEST) $(TESTS)
else
	$(PYTEST) -m "not slow" $(SIDE_BY_SIDE)
	$(PYTEST) -m slow
endif

check: $(INSTALLED) ## Look for faults without running anything: ruff, its formatter, mypy
	$(PYTHON_IN_VENV) -m ruff check
	$(PYTHON_IN_VENV) -m ruff format --check
	$(TYPES) $(PACKAGES:%=-p %)
	$(TYPES) --exclude '/conftest\.py$$' tests
	@set -e; for conftest in $(CONFTESTS); do echo "mypy $$conftest"; $(TYPES) $$conftest; done

bench: $(INSTALLED) ## Measure on this machine, beside others; ARGS=wire measures one thing, ARGS=--json is for programs
	$(PYTHON_IN_VENV) -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(PYTHON_IN_VENV) -m benchmarks $(ARGS)

simulate: $(INSTALLED) ## Ask all simulations their questions, and write a page; PAGE=report.html takes another path
	$(PYTHON_IN_VENV) -m pip install --quiet --constraint constraints.txt --editable '.[simulate]'
	$(PYTHON_IN_VENV) -m simulations --report $(or $(PAGE),.state/simulations.html)

clean: ## Remove everything that make made here, .venv and the demo's state too
	rm -rf .venv .state .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## Show this
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name what; do \
		printf '  make %-8s %s\n' "$$name" "$$what"; done

# Below: not in the help.

test-quick: $(INSTALLED)
	$(PYTEST) -m "not slow" $(SIDE_BY_SIDE)

test-slow: $(INSTALLED)
	$(PYTEST) -m slow

format: $(INSTALLED)
	$(PYTHON_IN_VENV) -m ruff check --fix-only
	$(PYTHON_IN_VENV) -m ruff format

# What .venv holds now becomes what everybody gets.
constraints: $(INSTALLED)
	$(PYTHON_IN_VENV) -m pip freeze --all --exclude cxp2p --exclude setuptools \
		| sed '/ @ /d; s/.*/\L&/; s/_/-/g' | LC_ALL=C sort >constraints.txt.new
	mv constraints.txt.new constraints.txt
	touch $(INSTALLED)

# The stamp names the tree that it was made for: one that was moved or copied is set up again, and so is one whose Python
# is gone.
ifneq ($(shell $(PYTHON_IN_VENV) -c 'print(open("$(INSTALLED)").read())' 2>/dev/null),$(CURDIR))
.PHONY: $(INSTALLED)
endif

$(INSTALLED): pyproject.toml constraints.txt
	@tools/setup.sh

.PHONY: demo up test check bench simulate clean help test-quick test-slow format constraints
