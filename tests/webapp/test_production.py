"""Settings for a server that others reach, in a process of its own as a server has them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
ASK = """
import json, django
django.setup()
from django.conf import settings
from django.test import Client
def ask(path, **more):
    answer = Client().get(path, headers={"Host": "example.org", **more})
    return [answer.status_code, dict(answer.headers)]
print(json.dumps({
    "plain": ask("/"),
    "page": ask("/account/login", **{"X-Forwarded-Proto": "https"}),
    "livez": ask("/livez"),
    "cookies": [settings.SESSION_COOKIE_SECURE, settings.CSRF_COOKIE_SECURE],
    "mail": settings.EMAIL_HOST_PASSWORD,
}))
"""


@pytest.fixture
def production(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "mail").write_text("mail secret\n")
    return os.environ | {
        "META_REWARD_VAR": str(tmp_path),
        "META_REWARD_HTTPS": "1",
        "META_REWARD_ALLOWED_HOSTS": "example.org",
        "META_REWARD_EMAIL_PASSWORD_FILE": str(tmp_path / "mail"),
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "DJANGO_SETTINGS_MODULE": "webapp.settings",
    }


def run(environment: dict[str, str], *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_check_for_deployment_is_silent(production: dict[str, str]) -> None:
    done = run(production, "manage.py", "check", "--deploy", "--fail-level", "DEBUG")
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


def test_the_check_would_speak_without_https(production: dict[str, str]) -> None:
    del production["META_REWARD_HTTPS"]
    done = run(production, "manage.py", "check", "--deploy", "--fail-level", "WARNING")
    assert "security.W012" in done.stderr
    assert done.returncode == 1


def test_pages_are_served_by_https_alone(production: dict[str, str]) -> None:
    done = run(production, "-c", ASK)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["plain"][0] == 301
    assert found["plain"][1]["Location"] == "https://example.org/"
    assert found["page"][0] == 200
    assert found["page"][1]["Strict-Transport-Security"] == "max-age=31536000"
    assert found["livez"][0] == 200
    assert found["cookies"] == [True, True]
    assert found["mail"] == "mail secret"


def test_a_secret_in_a_file_that_is_not_there_stops_the_start(
    production: dict[str, str], tmp_path: Path
) -> None:
    production["META_REWARD_SECRET_KEY_FILE"] = str(tmp_path / "absent")
    done = run(production, "manage.py", "check")
    assert done.returncode == 1
    assert "META_REWARD_SECRET_KEY_FILE specifies a file that is unreadable" in done.stderr


@pytest.mark.parametrize("name", ["META_REWARD_LOG", "META_REWARD_LOG_LEVEL"])
def test_an_unknown_form_of_the_log_is_refused(production: dict[str, str], name: str) -> None:
    done = run(production | {name: "xml"}, "manage.py", "check")
    assert done.returncode == 1
    assert f"{name} is 'xml': expected" in done.stderr
    assert "Traceback" not in done.stderr
