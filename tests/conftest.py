"""What all tests share."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.hashers import reset_hashers
from django.db import connection
from hypothesis import settings
from pytest_django import DjangoDbBlocker
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile

from tests import services, tiers
from tests.databases import load_migrated_database
from tests.hub_server import Hub, running_hub

# Otherwise each test process and each command that a test starts compiles all code again, which is
# most of what a short one does.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Tiny models gain nothing from threads, which take turns with those of the other test processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Collection imports half of all code, and leaves no garbage that is worth looking for.
gc.disable()

# How long an example takes says something about the machine, not about the code.
settings.register_profile("quick", deadline=None, max_examples=50)
settings.register_profile("slow", deadline=None, max_examples=300)  # `make test-slow`
settings.load_profile("quick")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the time limits of the tiers, and start the files that take longest first.

    Otherwise one process would be left alone with them at the end.
    """
    tiers.set_limits(items)
    items.sort(key=tiers.rank_by_duration)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Leave all that was imported out of later garbage collections; there was none until now."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _spare_time() -> Iterator[None]:
    """Do without what only production needs.

    The hash of a password takes 0.4 s, and this machine does not lose power during a test.
    """
    django_settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    reset_hashers(setting="PASSWORD_HASHERS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(WhiteNoiseMiddleware, "add_files_from_finders", _make_shared_scan())
        yield


def _make_shared_scan() -> Callable[[WhiteNoiseMiddleware], None]:
    """Look for static files once, and not for each client."""
    scan, found = WhiteNoiseMiddleware.add_files_from_finders, dict[str, StaticFile]()

    def add_files(middleware: WhiteNoiseMiddleware) -> None:
        if not found:
            others, middleware.files = middleware.files, found
            scan(middleware)
            middleware.files = others
        middleware.files.update(found)

    return add_files


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None) -> None:
    """Leave out the migrations of the test database if it is copied from a shared one."""
    if connection.vendor == "sqlite":
        connection.settings_dict["TEST"]["MIGRATE"] = False


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> None:
    """Fill the test database."""
    if connection.vendor == "sqlite":
        with django_db_blocker.unblock():
            connection.ensure_connection()
            load_migrated_database(connection.connection)


@pytest.fixture
def running_broker() -> Iterator[services.Broker]:
    """A broker of the test's own, which it may kill."""
    with services.broker() as running:
        yield running


@pytest.fixture
def redis_server() -> Iterator[services.RedisServer]:
    """A Redis server of the test's own, on a port of this machine; it may be killed."""
    with services.redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def running_s3() -> Iterator[services.S3]:
    """An S3-compatible server that several tests share; take a root of your own in it."""
    with services.s3_server() as running:
        yield running


@pytest.fixture
def s3(running_s3: services.S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> services.S3:
    """The same, and this process knows it; what is copied from it lies in the test's folder."""
    for name, value in running_s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("META_REWARD_CACHE_ROOT", str(tmp_path / "cache"))
    return running_s3


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The DATABASE_URL of a PostgreSQL server with an empty database; make your own in it."""
    with services.postgres() as url:
        yield url


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of models of the test's own, which this process and its children take for the hub."""
    from huggingface_hub import close_session, constants

    with running_hub() as running:
        # For children; then what this process's client has read of its environment already.
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        file = "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": running.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": running.address + file,
            "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"},
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_OFFLINE": False,
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        yield running
        close_session()
