# A worker: takes shards of a queue, loads models, trains. On a GPU through NVIDIA's container
# toolkit; torch's wheels bring CUDA themselves, so the base is the same small one.
#   docker build --file docker/worker.Dockerfile --tag meta-reward-worker .
#   docker build --build-arg ENGINE="vllm==0.32.0" ...      with vLLM in addition to the embedded engine
FROM python:3.11.14-slim-bookworm

ARG ENGINE=""
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    HF_HUB_OFFLINE=1 \
    HOME=/data/home \
    META_REWARD_VAR=/data \
    META_REWARD_LOG=json

# Kernels are compiled when they are first needed.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY constraints.txt pyproject.toml ./
# The names in pyproject.toml alone, so that a change of the code does not fetch torch again.
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extra = project['optional-dependencies']; \
print(*project['dependencies'], *extra['web'], *extra['s3'], *extra['ifeval'], sep='\n')" > wanted.txt \
    && pip install --constraint constraints.txt --requirement wanted.txt
# What vLLM needs names an older numpy than it needs: docs/engines.md.
RUN if [ -n "${ENGINE}" ]; then \
        grep -v '^numpy==' constraints.txt > engine.txt \
        && pip install --constraint engine.txt "${ENGINE}" \
        && pip install --no-deps --force-reinstall --constraint constraints.txt numpy django-ninja; \
    fi

RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin meta \
    && install --directory --owner meta --group meta --mode 0700 /data /data/home /data/models

COPY manage.py ./
COPY meta_reward_core meta_reward_core
COPY webapp webapp
COPY workers workers
COPY templates templates

USER 10001
HEALTHCHECK --interval=60s --timeout=30s --start-period=90s --retries=3 \
    CMD ["python", "manage.py", "health", "--worker"]
CMD ["python", "manage.py", "worker", "--queues", "gpu,cpu"]
