# Every target creates .venv once and reuses it. PYTHON=python3.12 make ... chooses the interpreter.
PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
HOUSE := settings.ini constraints.txt setup.py pyproject.toml
NB ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow export execute lab site constraints clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.venv/bin/python:
	$(PYTHON) -m venv .venv

# .run: what a user of the package needs; .dev: everything (and therefore .run too).
.venv/.run: $(HOUSE) | .venv/bin/python
	$(PIP) -e .
	@touch $@

.venv/.dev: $(HOUSE) | .venv/bin/python
	$(PIP) -e ".[dev]"
	@touch .venv/.run $@

demo: .venv/.run ## train a small network on water clusters; tables and figures in eqbook-demo/
	.venv/bin/eqbook demo

test: .venv/.dev ## everything that CI proves
	@$(PY) -m tools.test

test-slow: .venv/.dev ## the same, long trainings included
	@$(PY) -m tools.test --slow

export: .venv/.dev ## notebooks -> eqbook/ and README.md
	@$(PY) -m tools.export

execute: .venv/.dev ## run notebooks top to bottom and store outputs (NB="nbs/a.ipynb nbs/b.ipynb", default all)
	@$(PY) -m tools.execute $(NB)

lab: .venv/.dev  ## JupyterLab on the notebooks
	.venv/bin/jupyter lab --notebook-dir=nbs

site: .venv/.dev ## the book as a website in _docs/ (needs Quarto)
	@$(PY) -m tools.site

constraints: .venv/.dev ## write constraints.txt from what is installed
	@$(PY) -m tools.constraints

clean:           ## remove what is generated (not .venv)
	rm -rf _proc _docs _site build dist *.egg-info .ruff_cache .pytest_cache eqbook-demo
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
