"""Planted secrets: none appears in a body or a header for whoever may not know it.

Unique texts stand in rows, files and settings: the name of a private experiment, its prompts,
credentials and addresses of another user. Every address of the URL map, Django's admin included,
and every operation of the API is asked as each kind of user, and all of the answer is searched. A
new address is asked as soon as it is in the map.
"""

import base64
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from django.utils import timezone
from django_otp.plugins.otp_totp.models import TOTPDevice
from pytest_django.fixtures import Settings

from tests.webapp import authorization
from tests.webapp.audit_fixtures import artifacts, draw, record
from tests.webapp.conftest import make_person
from tests.webapp.test_permissions_everywhere import PATHS
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action
from webapp.api.models import hash_token, make_token
from webapp.audit.models import Gate
from webapp.audit.services import override_gate
from webapp.experiments.models import Experiment, Iteration, Job, Shard, Stage, Worker
from webapp.notifications.models import Channel, Notification, Recipient

__all__ = ["artifacts"]

pytestmark = pytest.mark.django_db

NAME: Final = "hush-hush-4711"
PLANTED: Final = {
    "name": NAME,
    "prompt": "planted-prompt-0815",
    "finding": "planted-finding-2342",
    "webhook": "https://hooks.example.org/planted-address-99",
    "webhook secret": "planted-signing-key-77",
    "e-mail": "planted-mail-31@example.org",
    "hub token": "hf_plantedplanted",
    "metrics token": "planted-metrics-token-5",
    "mail password": "planted-mail-password-6",
}
NOBODY: Final = frozenset[str]()
SEES_PRIVATE: Final = frozenset({"owner", "admin", "staff admin", "superuser"})
SEES_ACCOUNTS: Final = frozenset({"staff admin", "superuser"})
MAY_KNOW: Final[Mapping[str, frozenset[str]]] = {
    "name": SEES_PRIVATE | {"assigned auditor"},
    "prompt": SEES_PRIVATE,
    "finding": SEES_PRIVATE,
    "webhook": SEES_ACCOUNTS,
    "e-mail": SEES_ACCOUNTS | {"admin"},  # in the security events
}
"""Who may know what, of those who are not the user that it belongs to; nobody knows the rest."""

KINDS: Final = (
    *("stranger", "no role", "viewer", "operator", "auditor", "assigned auditor"),
    *("staff viewer", "lead", "staff lead", "admin", "staff admin", "superuser", "owner"),
)
QUICK: Final = ("stranger", "operator", "staff lead", "auditor")


@pytest.fixture
def secrets(
    artifacts: Path, tmp_path: Path, settings: Settings, alice: User
) -> tuple[dict[str, str], dict[str, int], dict[str, User | None]]:
    """Plant; returns the secrets, the rows that addresses name, and one user of each kind."""
    settings.META_REWARD_HF_TOKEN = PLANTED["hub token"]
    settings.META_REWARD_METRICS_TOKEN = PLANTED["metrics token"]
    settings.EMAIL_HOST_PASSWORD = PLANTED["mail password"]
    settings.META_REWARD_WEBHOOK_HOSTS = ["hooks.example.org"]
    shutil.copytree(artifacts / "scripted", tmp_path / NAME)
    users = make_users(alice)
    row = record(artifacts, owner=alice)
    Experiment.objects.filter(pk=row.pk).update(
        name=NAME, is_private=True, artifact_root=str(tmp_path)
    )
    row.refresh_from_db()
    batch = draw(row, by=alice, auditors=[users["assigned auditor"]])  # type: ignore[list-item]
    draw(row, by=alice, auditors=[users["assigned auditor"]], seed=4)  # type: ignore[list-item]
    Gate.objects.create(experiment=row)
    override_gate(row, 1, source_sha256="", outcome="all", reason=PLANTED["finding"], by=alice)
    Iteration.objects.update(message=PLANTED["finding"], status="running")
    plant_work(row)
    job = Job.objects.create(
        pk=70_001,
        kind="chat",
        experiment=row,
        experiment_name=NAME,
        created_by=alice,
        payload={**_CHAT, "prompt": PLANTED["prompt"]},
    )
    log_event(Action.EXPORTED, NAME, by=alice)
    return PLANTED | plant_account(row), {"batch": batch.pk, "job": job.pk}, users


_CHAT: Final = {
    "models": [0],
    "judges": [],
    "judgments": 1,
    "seed": 1,
    "sampling": {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 64},
}


def make_users(alice: User) -> dict[str, User | None]:
    found: dict[str, User | None] = {"stranger": None, "owner": alice}
    for kind in KINDS:
        role = kind.split()[-1]
        if kind not in found:
            found[kind] = user = make_person(
                kind.replace(" ", "-"), *([role] if role not in ("role", "superuser") else [])
            )
            user.is_superuser = kind == "superuser"
            user.is_staff = user.is_superuser or kind.startswith("staff")
            user.save()
    return found


def plant_work(row: Experiment) -> None:
    """Let a worker be at a shard of the private experiment."""
    stage = Stage.objects.get(iteration__experiment=row, name="judge")
    shard = Shard.objects.create(stage=stage, index=7)
    now = timezone.now()
    Worker.objects.create(
        name="w", host="h", pid=1, queues="cpu", shard=shard, since=now, started=now, heartbeat=now
    )


def plant_account(row: Experiment) -> dict[str, str]:
    """Make bob, who may see nothing private, with a credential of every sort."""
    bob = make_person("bob", "viewer")
    bob.email = PLANTED["e-mail"]
    bob.save()
    token = make_token(bob, name="t", expires=None)[1]
    device = TOTPDevice.objects.create(user=bob, confirmed=True)
    recipient = Recipient.objects.create(
        user=bob, webhook_url=PLANTED["webhook"], secret=PLANTED["webhook secret"]
    )
    Notification.objects.create(
        recipient=recipient,
        event="failed",
        channel=Channel.WEBHOOK,
        experiment=row,
        subject=f"{NAME}: it failed",
        text=PLANTED["finding"],
        due=timezone.now(),
    )
    browser = Client()
    browser.force_login(bob)
    return {
        "token": token,
        "digest": hash_token(token),
        "app": base64.b32encode(device.bin_key).decode(),
        "app in hexadecimal": device.key,
        "session": browser.cookies["sessionid"].value,
        "password": bob.password,
    }


def every_path(rows: Mapping[str, int]) -> Iterator[str]:
    """Addresses with the private experiment, and Django's admin with rows that are there."""
    for address in authorization.every_address():
        path = address.path(rows)
        yield path
        if "/recipes/" not in path:  # there it would name a recipe, and the answer repeats it
            named = path.replace("/scripted", f"/{NAME}")
            yield named.replace("/experiments/1", f"/experiments/{NAME}")
    for path in PATHS:
        if path.startswith("admin/") and "logout" not in path and "jsi18n" not in path:
            yield f"/{path}"
    yield from (f"/?name={NAME}", f"/reports?name={NAME}", f"/experiments/compare?name={NAME}")
    yield from (f"/activity?experiment={NAME}", f"/jobs?experiment={NAME}")


def read_answer(answer: Any) -> str:
    """All of an answer that leaves the site: headers, cookies and body."""
    head = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
    body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    answer.close()
    return f"{head}\n{answer.cookies}\n{body.decode(errors='replace')}"


def find_leaks(
    client: Client, method: str, path: str, secrets: Mapping[str, str], kind: str
) -> list[str]:
    with transaction.atomic():
        answer = client.generic(method, path, b"{}", content_type="application/json")
        said = read_answer(answer)
        transaction.set_rollback(True)
    asked = path.replace("?", "%3F").replace("=", "%3D")
    for echo in {path, asked, path.rpartition("name=")[2], path.rpartition("experiment=")[2]}:
        if NAME in echo:  # whoever asks for a name knows it
            said = said.replace(echo, "")
    if f"/{NAME}" in path:
        said = said.replace(f"/experiments/{NAME}", "").replace(f"experiments%2F{NAME}", "")
    return [
        name
        for name, secret in secrets.items()
        if secret in said and kind not in MAY_KNOW.get(name, NOBODY)
    ]


def ask_everything(
    kind: str,
    methods: tuple[str, ...],
    secrets: tuple[dict[str, str], dict[str, int], dict[str, User | None]],
) -> dict[str, list[str]]:
    planted, rows, users = secrets
    client, user = Client(raise_request_exception=False), users[kind]
    if user is not None:
        client.force_login(user)
    cookies = client.cookies.copy()
    leaks = {}
    for path in sorted(set(every_path(rows))):
        for method in methods:
            client.cookies = cookies.copy()  # type: ignore[assignment]
            if found := find_leaks(client, method, path, planted, kind):
                leaks[f"{method} {path}"] = found
    return leaks


def test_the_secrets_are_there_to_be_found(
    secrets: tuple[dict[str, str], dict[str, int], dict[str, User | None]],
) -> None:
    """The owner and a superuser find what they may: otherwise the search would find nothing."""
    planted, _, users = secrets
    recipient = Recipient.objects.get()
    found: set[str] = set()
    for kind, paths in {
        "owner": ("/", f"/experiments/{NAME}", f"/experiments/{NAME}/playground", "/workers"),
        "superuser": (
            "/admin/auth/user/",
            f"/admin/notices/recipient/{recipient.pk}/change/",
        ),
    }.items():
        client = Client()
        client.force_login(users[kind])  # type: ignore[arg-type]
        for path in paths:
            said = read_answer(client.get(path))
            found |= {name for name, secret in planted.items() if secret in said}
    assert found >= {"name", "prompt", "finding", "e-mail", "webhook"}
    assert not found & {"token", "digest", "app", "session", "password", "webhook secret"}


@pytest.mark.parametrize("kind", QUICK)
def test_no_page_and_no_operation_shows_a_secret_to_others(
    kind: str, secrets: tuple[dict[str, str], dict[str, int], dict[str, User | None]]
) -> None:
    assert ask_everything(kind, ("GET",), secrets) == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_anybody_asks_for_shows_a_secret(
    kind: str, secrets: tuple[dict[str, str], dict[str, int], dict[str, User | None]]
) -> None:
    assert ask_everything(kind, ("GET", "POST"), secrets) == {}
