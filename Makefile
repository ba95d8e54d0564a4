# The doors are demo, run and test. Each installs what it needs first: make demo works in a fresh clone.

export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help demo run test lint services bench soak install lock

help:
	@echo "make demo      real daily prices into SQLite and Parquet, without a server"
	@echo "make run       admin, Prefect server and a worker on this machine"
	@echo "make test      bring the services up, lint, run all tests"
	@echo "make lint      what CI checks without running the tests"
	@echo "make services  TimescaleDB, Redis and a browser for the tests (scripts/services stop ends them)"
	@echo "make bench     speed and memory, as ratios to a named base"
	@echo "make soak      an hour of 20,000 live trades a second (SECONDS=600: ten minutes)"
	@echo "make install   .venv with the packages of requirements.lock"
	@echo "make lock      resolve pyproject.toml anew into requirements.lock"

demo: install .env
	scripts/demo

run: install .env
	scripts/run

test: lint services
	pytest -n auto --dist worksteal

lint: install
	ruff check
	ruff format --check
	mypy
	lint-imports
	DJANGO_SETTINGS_MODULE=tests.settings python manage.py makemigrations --check --dry-run

services: install
	python scripts/services

bench: services
	set -a && . .services/env && python -m benchmarks

soak: services
	set -a && . .services/env && python -m benchmarks.soak --seconds $(or $(SECONDS),3600)

install: .venv/installed

lock: install
	scripts/lock --upgrade
	$(MAKE) install

.venv/installed: requirements.lock scripts/install
	scripts/install
	touch $@

.env:
	install -m 600 .env.example .env
