"""Settings: validated together, secrets unseen, one way to read the environment."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from meta_reward_core.errors import SettingsError
from meta_reward_core.system.settings import (
    Settings,
    get_expected,
    get_variable_name,
    is_secret,
    iter_known_names,
    list_unknown_variables,
    read_settings,
)
from meta_reward_core.system.settings_reference import write_reference

CHECKOUT: Final = Path(__file__).parents[3]
SECRETS: Final = [
    get_variable_name(field) for field in Settings.model_fields.values() if is_secret(field)
]
READS_BEFORE_IMPORTS: Final = {"meta_reward_core/__init__.py"}
"""OMP_WAIT_POLICY decides before torch is imported."""


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in set(os.environ) & set(iter_known_names()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("META_REWARD_VAR", str(tmp_path))


def test_defaults_follow_the_folder_and_empty_values_count_as_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for field in Settings.model_fields.values():
        if get_variable_name(field) != "META_REWARD_VAR":
            monkeypatch.setenv(get_variable_name(field), "")
    found = read_settings()
    assert found.artifact_root == str(tmp_path / "artifacts")
    assert (found.model_root, found.cache_root) == (tmp_path / "models", tmp_path / "cache")
    assert found.allowed_hosts == ("localhost", "127.0.0.1", "[::1]")
    assert (found.https, found.email_port, found.database_url) == (False, 587, None)


def test_values_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "META_REWARD_ARTIFACT_ROOT": "s3://bucket/x",
        "META_REWARD_MODEL_ROOT": "data",
        "META_REWARD_HTTPS": "yes",
        "META_REWARD_EMAIL_SECURITY": "tls",
        "META_REWARD_LOG_LEVEL": "debug",
        "META_REWARD_SITE_URL": "https://example.org/",
        "META_REWARD_WEBHOOK_HOSTS": " a.example.org, b:8443 ,,::1,",
        "DATABASE_URL": "postgres://meta:sesame@host/meta",
    }.items():
        monkeypatch.setenv(name, value)
    found = read_settings()
    assert found.artifact_root == "s3://bucket/x"
    assert found.model_root == Path("data").absolute()
    assert (found.https, found.email_port, found.log_level) == (True, 465, "DEBUG")
    assert found.site_url == "https://example.org"
    assert found.webhook_hosts == ("a.example.org", "b:8443", "::1")
    assert "sesame" not in repr(found)
    assert found.database_url is not None
    assert found.database_url.get_secret_value() == "postgres://meta:sesame@host/meta"


def test_every_wrong_value_is_named_at_once_with_what_is_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = {
        "META_REWARD_LEASE_SECONDS": "soon",
        "META_REWARD_TURN_SECONDS": "nan",
        "META_REWARD_PROXIES": "-1",
        "META_REWARD_HTTPS": "maybe",
        "META_REWARD_EMAIL_SECURITY": "ssl",
        "META_REWARD_EMAIL_PORT": "70000",
        "META_REWARD_EMAIL_FROM": "a@example.org\nBcc: b@example.org",
        "META_REWARD_ALLOWED_HOSTS": "https://example.org",
        "META_REWARD_CSRF_ORIGINS": "example.org",
        "META_REWARD_SITE_URL": "example.org",
        "META_REWARD_WEBHOOK_HOSTS": "https://example.org/hook",
        "WEB_CONCURRENCY": "0",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as failed:
        read_settings()
    lines = str(failed.value).splitlines()
    fields = {get_variable_name(field): field for field in Settings.model_fields.values()}
    assert "docs/settings.md" in lines[0]
    assert sorted(lines[1:]) == sorted(
        f"  {name} is {value!r}: expected {get_expected(fields[name])}"
        for name, value in wrong.items()
    )


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_be_in_a_file_and_is_in_no_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    scheme = {"DATABASE_URL": "postgres://u:", "CELERY_BROKER_URL": "redis://:"}.get(name, "")
    secret = f"{scheme}sesame@host" if scheme else "sesame"
    file = tmp_path / "secret"
    monkeypatch.setenv(f"{name}_FILE", str(file))
    for content, problem in ((None, "unreadable"), (" \n", "empty"), ("\xff", "unreadable")):
        if content is not None:
            file.write_text(content, encoding="latin-1")
        with pytest.raises(SettingsError, match=f"{name}_FILE.*{problem}"):
            read_settings()
    file.write_text(f"{secret}\n")
    [field] = [key for key, f in Settings.model_fields.items() if get_variable_name(f) == name]
    assert getattr(read_settings(), field).get_secret_value() == secret
    monkeypatch.setenv(name, secret)
    with pytest.raises(SettingsError, match=f"{name} and {name}_FILE are both set") as failed:
        read_settings()
    assert "sesame" not in str(failed.value)
    monkeypatch.delenv(f"{name}_FILE")
    assert getattr(read_settings(), field).get_secret_value() == secret


@pytest.mark.parametrize(
    "name, value",
    [
        ("DATABASE_URL", "mysql://u:sesame@host/x"),
        ("DATABASE_URL", "postgres://u:sesame@host:port/x"),
        ("CELERY_BROKER_URL", "sesame"),
        ("META_REWARD_S3_ENDPOINT", "https://u:sesame@host"),
    ],
)
def test_a_wrong_secret_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name} is not valid.*expected") as failed:
        read_settings()
    assert "sesame" not in str(failed.value)
    assert failed.value.__cause__ is None


def test_unknown_variables_are_named_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("META_REWARD_ARTEFACT_ROOT", "x")
    monkeypatch.setenv("META_REWARD_ALLOWED_HOSTS_FILE", "x")
    monkeypatch.setenv("META_REWARD_SITE", "example.org")  # Compose's own
    first, second = list_unknown_variables()
    assert first.startswith("META_REWARD_ALLOWED_HOSTS_FILE is not a setting")
    assert second.endswith("did you mean META_REWARD_ARTIFACT_ROOT?")


SHOW: Final = (
    "import os; from meta_reward_core.system.settings import check_settings, read_settings;"
    "check_settings(); found = read_settings();"
    "print(found.lease_seconds, found.turn_seconds, found.hf_token, os.environ['AWS_X'])"
)


def test_a_file_of_variables_counts_where_none_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "META_REWARD_LEASE_SECONDS=7\nMETA_REWARD_TURN_SECONDS=8\n# note\n"
        "HF_TOKEN='se$HOME#same'\nAWS_X=region\nMETA_REWARD_LEESE_SECONDS=1\n"
    )
    file.chmod(0o600)
    monkeypatch.setenv("META_REWARD_TURN_SECONDS", "9")

    def show() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", SHOW]
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    done = show()
    assert done.stdout == "7.0 9.0 ********** region\n", done.stderr
    assert "did you mean META_REWARD_LEASE_SECONDS?" in done.stderr
    file.chmod(0o666)
    assert "is writable by others" in show().stderr
    file.chmod(0o600)
    for name in ("LD_PRELOAD", "PYTHONPATH", "PATH", "DJANGO_SETTINGS_MODULE"):
        file.write_text(f"{name}=/elsewhere\n")
        assert f".env: {name} decides which code runs" in show().stderr


def test_the_reference_is_up_to_date() -> None:
    page = (CHECKOUT / "docs" / "settings.md").read_text(encoding="utf-8")
    command = "python -m meta_reward_core.system.settings_reference > docs/settings.md"
    assert page == write_reference(), f"run: {command}"


def test_documentation_and_images_name_known_variables_only() -> None:
    pages = [CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md")]
    files = [*pages, *(path for path in (CHECKOUT / "docker").iterdir() if path.is_file())]
    known = set(iter_known_names())
    for path in files:
        named = re.findall(r"\bMETA_REWARD_[A-Z0-9_]*[A-Z0-9]\b(?!_)", path.read_text("utf-8"))
        assert set(named) <= known, path


def test_the_environment_is_read_in_one_module() -> None:
    reads = {
        str(path.relative_to(CHECKOUT))
        for package in ("meta_reward_core", "webapp", "workers")
        for path in (CHECKOUT / package).rglob("*.py")
        if any(_iter_reads(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert reads == {"meta_reward_core/system/settings.py", *READS_BEFORE_IMPORTS}


def _iter_reads(tree: ast.Module) -> Iterator[ast.AST]:
    """Reads of single variables; children may be given the whole environment."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Attribute(attr="getenv" | "environb")
                | ast.Attribute(value=ast.Attribute(attr="environ"), attr="get" | "items" | "keys")
                | ast.Subscript(value=ast.Attribute(attr="environ"), ctx=ast.Load())
                | ast.Compare(comparators=[ast.Attribute(attr="environ")])
                | ast.ImportFrom(module="os", names=[ast.alias(name="environ" | "getenv")])
            ):
                yield node
