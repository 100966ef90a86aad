"""Settings and what an import costs."""

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.core.management import call_command

from webapp.secret_key import make_lazy_key, read_or_make_key

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "var" / "secret_key"
    key = read_or_make_key(path)
    assert len(key) >= 50
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_make_key(path) == key
    assert list(path.parent.iterdir()) == [path]


def test_processes_that_start_at_once_agree_on_the_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(read_or_make_key, [tmp_path / "key"] * 32))
    assert len(keys) == 1


def test_the_key_is_not_made_before_it_is_needed(tmp_path: Path) -> None:
    key = make_lazy_key(tmp_path / "key")
    assert not (tmp_path / "key").exists()
    assert str(key) == (tmp_path / "key").read_text()


@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_the_system_check_finds_nothing() -> None:
    call_command("check", fail_level="WARNING")


def test_the_site_loads_no_model_library() -> None:
    code = (
        "import sys, django; django.setup();"
        "import webapp.urls, webapp.wsgi;"
        "heavy = {'torch', 'transformers', 'trl', 'vllm', 'datasets'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or None)"
    )
    environment = {"DJANGO_SETTINGS_MODULE": "webapp.settings", "META_REWARD_SECRET_KEY": "x"}
    run = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=environment, check=False)
    assert run.returncode == 0
