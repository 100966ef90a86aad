# The site and the reconciler: no model is loaded here, and no torch is installed.
#   docker build --file docker/web.Dockerfile --tag meta-reward-web .
FROM python:3.11.14-slim-bookworm

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    HOME=/tmp \
    META_REWARD_VAR=/data \
    META_REWARD_LOG=json

WORKDIR /app
COPY constraints.txt docker/requirements-web.txt ./
RUN pip install --constraint constraints.txt --requirement requirements-web.txt

RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin meta \
    && install --directory --owner meta --group meta --mode 0700 /data /data/models

COPY manage.py ./
COPY meta_reward_core meta_reward_core
COPY webapp webapp
COPY workers workers
COPY templates templates

USER 10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=30s --start-period=60s --retries=3 \
    CMD ["python", "manage.py", "health", "--site", "http://127.0.0.1:8000"]
# What `make serve` starts, except for the broker and the worker, which have their own containers.
CMD ["python", "manage.py", "serve", "--host", "0.0.0.0", "--port", "8000", "--without-worker"]
