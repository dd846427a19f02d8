# Each target sets up what it needs: Python 3.10 to 3.12 with venv and pip, and this file, are enough.
SHELL := /bin/bash
PYTHON := .venv/bin/python

.PHONY: demo test test-slow test-puffer3 lint setup clean

demo: setup  ## a policy at 5% of its size, played and trained on beside its controls; then the guide on BeamRider
	@bash tools/demo.sh

test: setup  ## the fast tests, two files at a time, in random order: pytest --randomly-seed=.. repeats one
	@$(PYTHON) -m pytest -n 2 --dist loadfile

test-slow: setup  ## the tests that take minutes
	@$(PYTHON) -m pytest -m slow

test-puffer3:  ## PufferLib 3's trainer, in an environment of its own, which is built first
	@bash tools/test_puffer3.sh

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

setup: .venv/.ready  ## .venv with all of it; EXTRAS="mujoco wandb" adds more
ifneq ($(EXTRAS),)
	@bash tools/setup.sh $(EXTRAS)
endif

.venv/.ready: pyproject.toml setup.py tools/setup.sh
	@bash tools/setup.sh
	@touch $@

clean:  ## what was set up and what tools left; runs in experiments/ stay
	rm -rf .venv .venv-puffer3 .uv uv.lock build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
