"""A whole iteration by `manage.py serve`, as somebody gives it to the workers."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.conftest import digests_below
from tests.end_to_end.serving import Server, own_server
from tests.services import RedisServer

SMOKE = ("run_iteration", "--experiment", "mine", "--recipe", "smoke")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def plain() -> Iterator[dict[str, str]]:
    """The files that the command makes without a server or a worker."""
    with own_server() as place:
        for words in (("migrate", "--verbosity", "0"), SMOKE):
            assert place.manage(*words, log="plain").wait(900) == 0, place.said("plain")
        yield digests_below(place.root / "artifacts")


@pytest.fixture
def server() -> Iterator[Server]:
    with own_server() as made:
        yield made


def test_the_embedded_broker_and_sqlite_make_the_same_files(
    server: Server, plain: dict[str, str]
) -> None:
    assert made_by_workers_of(server) == plain
    assert server.pids("broker")
    assert (server.root / "db.sqlite3").exists()


def test_redis_and_postgresql_make_the_same_files(
    server: Server, plain: dict[str, str], redis_server: RedisServer, postgres_url: str
) -> None:
    server.extra |= {"CELERY_BROKER_URL": redis_server.url, "DATABASE_URL": postgres_url}
    assert made_by_workers_of(server) == plain
    assert not server.pids("broker")
    assert not (server.root / "db.sqlite3").exists()


def made_by_workers_of(server: Server) -> dict[str, str]:
    server.start()
    server.wait_until_up()
    followed = server.manage(*SMOKE, "--queue", log="followed")
    assert followed.wait(900) == 0, server.said("followed") + server.said()
    assert "by the workers" in server.said("followed")
    return digests_below(server.root / "artifacts")
