# `make` prints what there is. Every target installs what it needs into .venv, once.
# Works with GNU make 3.81 (macOS) and newer, and on Windows from git-bash.

SHELL := bash
VENV := .venv
LOCK := .venv-lock
LOCK_PATIENCE_S := 1800

# Without it, Python 3.11 to 3.14 on Windows read and write text in the system's old encoding.
export PYTHONUTF8 := 1

ifeq ($(OS),Windows_NT)
PY := $(VENV)/Scripts/python.exe
else
PY := $(VENV)/bin/python
endif

# The first of these that will do makes .venv. To choose: make lab PYTHON=python3.12
PYTHON ?= python3 python python3.13 python3.12 python3.11 py

# So many tests run at a time. They never judge how long something took, and lessons take turns
# at timing. For figures to keep, run a lesson alone: `make run-notebooks`.
WORKERS ?= 2

# More that a lesson can use, by name, as pyproject.toml lists it: make lab EXTRAS=edge
EXTRAS ?=

LAB_INSTALLED := $(VENV)/.installed-lab$(addprefix -,$(EXTRAS))
TEST_INSTALLED := $(VENV)/.installed-test
WEB_INSTALLED := $(VENV)/.installed-web
TEST_TASKS := lint types unit notebooks browser

.PHONY: help lab test setup format run-notebooks $(TEST_TASKS)
.NOTPARALLEL:  # the targets build on each other

help:  ## This table
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

# root_dir: learners read course_utils too. allow-root: in a container one often is root.
# No slash before lab/tree: git-bash would take it for a path and rewrite it.
lab: $(LAB_INSTALLED) $(WEB_INSTALLED)  ## Open the course in JupyterLab; LAB_FLAGS=--no-browser only prints its address
	$(PY) -m jupyterlab --ip=127.0.0.1 --ServerApp.port_retries=50 --ServerApp.root_dir=. \
	  --LabApp.default_url=lab/tree/notebooks/00_start_here.ipynb --allow-root $(LAB_FLAGS)

# Measurements and progress go to empty folders, so that nothing left from before can help.
test: $(TEST_INSTALLED) $(WEB_INSTALLED)  ## Check everything: the next five, in this order, up to the first failure
	@mkdir -p build && fresh=$$(mktemp -d "$(CURDIR)/build/test-XXXXXX") || exit 1; \
	trap 'rm -rf "$$fresh"' EXIT; \
	export INFERENCE_MEASURED_CACHE="$$fresh/cache" INFERENCE_MEASURED_DATA="$$fresh/data"; \
	mkdir "$$fresh/cache" "$$fresh/data"; \
	for task in $(TEST_TASKS); do \
	  echo "== $$task"; \
	  $(MAKE) --no-print-directory $$task || exit 1; \
	done

lint: $(TEST_INSTALLED)  ## Rules and format of every .py and .ipynb
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(TEST_INSTALLED)  ## Types of the package
	$(PY) -m mypy

unit: $(TEST_INSTALLED)  ## Tests without notebooks and browser
	$(call PYTEST,unit,tests -m "not browser" --dist worksteal)

# A test asks whether a lesson works, not how large its numbers are; 0 takes a whole look.
notebooks browser: export INFERENCE_MEASURED_QUICK := 1

notebooks: $(TEST_INSTALLED)  ## Run every notebook with nbval, then its solutions, panels, cells backwards
	$(PY) tests/extend_lessons.py build/lessons
	$(call PYTEST,notebooks,--nbval-lax --nbval-current-env build/lessons/*.ipynb \
	  --nbval-cell-timeout=300 -p no:cacheprovider --dist loadfile)

browser: $(TEST_INSTALLED) $(WEB_INSTALLED)  ## Drive every lesson and its panels in Chromium
	$(call PYTEST,browser,tests/browser -m browser --dist loadfile)

format: $(TEST_INSTALLED)  ## Mend what ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

run-notebooks: $(TEST_INSTALLED)  ## Run every lesson and write the outputs that readers need into it
	$(PY) notebooks/execute.py

setup: $(TEST_INSTALLED) $(WEB_INSTALLED)  ## Install everything, run nothing

# $(1): name of the report, $(2): arguments. A skipped test checks nothing, so it fails the run.
define PYTEST
	@mkdir -p build
	$(PY) -m pytest -n $(WORKERS) $(2) --junitxml=build/$(1).xml
	@$(PY) -c 'import sys, xml.etree.ElementTree as tree; \
	  cases = tree.parse(sys.argv[1]).iter("testcase"); \
	  names = [case.get("name") for case in cases if case.find("skipped") is not None]; \
	  sys.exit("skipped, and every test must run: " + ", ".join(names) if names else 0)' \
	  build/$(1).xml
endef

$(LAB_INSTALLED): pyproject.toml constraints.txt litert.txt
	$(call INSTALL,.$(addsuffix ],$(addprefix [,$(EXTRAS))),$(VENV)/.installed-lab $@)

# The tests try every runtime: with the extra `edge`, and so also what `make lab` needs.
$(TEST_INSTALLED): pyproject.toml constraints.txt litert.txt
	$(call INSTALL,.[test$(COMMA)edge],$(VENV)/.installed-lab $(VENV)/.installed-lab-edge $@)

# What runs a model in a page comes from npm, into the user data folder. Without npm or a network
# the course runs too: the next make tries again, and lesson 07 says what is missing.
$(WEB_INSTALLED): course_utils/web_runtime.py | $(LAB_INSTALLED)
	@if $(PY) -m course_utils.fetch onnxruntime-web; then touch $@; fi

# Exits with a word on what is missing if the interpreter cannot make .venv.
FIT := import sys; v = sys.version_info; \
  v < (3, 11) and sys.exit("is version %d.%d" % v[:2]); import importlib.util; \
  importlib.util.find_spec("ensurepip") or sys.exit("lacks the module venv")

COMMA := ,

# $(1): what pip installs, $(2): the stamps that say so.
# The lock is a folder, since every system makes a folder for one caller only. Whoever waited
# for it looks at the stamp again: the other may have installed the same.
define INSTALL
	@set -e; \
	[ -w . ] || { echo "This folder cannot be written to." >&2; exit 1; }; \
	waited=0; \
	until mkdir $(LOCK) 2>/dev/null; do \
	  if [ $$waited -eq 0 ]; then \
	    echo "Waiting: another make installs into $(VENV). (If none does, remove the folder $(LOCK).)"; \
	  elif [ $$waited -ge $(LOCK_PATIENCE_S) ]; then \
	    echo "Waited $$waited s for another make. If none runs, remove the folder $(LOCK) and try again." >&2; \
	    exit 1; \
	  fi; \
	  sleep 1; waited=$$((waited + 1)); \
	done; \
	trap 'rmdir $(LOCK)' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM HUP; \
	if [ -e $@ ] && ! [ pyproject.toml -nt $@ ] && ! [ constraints.txt -nt $@ ] \
	  && ! [ litert.txt -nt $@ ]; then exit 0; fi; \
	if ! [ -x $(PY) ]; then \
	  found=; seen=; \
	  for python in $(PYTHON); do \
	    command -v "$$python" >/dev/null || continue; \
	    if why=$$("$$python" -c '$(FIT)' 2>&1); then found=$$python; break; fi; \
	    seen="$$seen  $$python $$why"$$'\n'; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "The course needs Python 3.11 or newer with its module venv. Found here:" >&2; \
	    echo "$${seen:-  no Python}" >&2; \
	    echo "  Debian, Ubuntu   apt install python3 python3-venv" >&2; \
	    echo "  macOS            brew install python@3.13" >&2; \
	    echo "  Windows          winget install Python.Python.3.13" >&2; \
	    echo "Elsewhere already?  make lab PYTHON=path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$found" --version)"; \
	  "$$found" -m venv --clear $(VENV); \
	fi; \
	why=$$($(PY) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("is too old")' 2>&1) || \
	  { echo "The Python in $(VENV) $$why. Remove that folder and try again." >&2; exit 1; }; \
	$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null; \
	echo "Installing into $(VENV): takes minutes the first time, seconds later"; \
	$(PY) -m pip install -q --disable-pip-version-check --no-warn-conflicts \
	  -e '$(1)' -c constraints.txt; \
	case '$(1)' in *edge*) \
	  $(PY) -m pip install -q --disable-pip-version-check --no-deps -r litert.txt -c constraints.txt;; \
	esac; \
	settings=$(VENV)/share/jupyter/lab/settings; mkdir -p $$settings; \
	echo '$(LAB_SETTINGS)' > $$settings/overrides.json; \
	touch $(2)
endef

# JupyterLab would ask for the news and for updates; the course promises to fetch nothing.
LAB_SETTINGS := { "@jupyterlab/apputils-extension:notification": \
  { "fetchNews": "false", "checkForUpdates": false } }
