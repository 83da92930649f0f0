.PHONY: install check format test test-slow coverage

PYTHON ?= python

install:
	$(PYTHON) -m pip install -e '.[dev,zh,onnx]' -c constraints.txt

check:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test:
	$(PYTHON) -m pytest -q -n auto

test-slow:
	$(PYTHON) -m pytest -q -n auto -m slow

coverage:
	$(PYTHON) -m pytest -q -n auto --cov
