"""The page of notices: what to be told, where to, the webhook's secret, and what was sent."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django.fixtures import Settings

from tests.webapp.conftest import make_person
from webapp.experiments.models import Experiment
from webapp.notifications.models import Notification, Recipient, Subscription
from webapp.notifications.webhooks import WebhookError, parse_address, sign

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}
PAGE = "/account/notifications"
HOSTILE = "</td><script>alert(1)</script>"
FORM = {
    "email": "alice@example.org",
    "webhook_url": "https://hooks.example.org/in?key=1",
    "only_own": "on",
    "ended_email": "on",
    "failed_email": "on",
    "failed_webhook": "on",
}


@pytest.fixture(autouse=True)
def _allowed(settings: Settings) -> None:
    settings.META_REWARD_WEBHOOK_HOSTS = ["hooks.example.org", "127.0.0.1:9000", "other.test:8443"]


def get(client: Client, **headers: str) -> str:
    return client.get(PAGE, headers=headers).content.decode()


def chosen() -> set[tuple[str, str]]:
    return set(Subscription.objects.values_list("event", "channel"))


def test_what_is_chosen_is_kept_and_shown(client: Client, alice: User) -> None:
    client.post(PAGE, FORM)
    assert chosen() == {("ended", "email"), ("failed", "email"), ("failed", "webhook")}
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    page = get(client)
    assert 'value="https://hooks.example.org/in?key=1"' in page
    assert 'name="failed_webhook"' in page
    assert page.count("checked") == 4


def test_choosing_again_keeps_since_when_and_takes_away_the_rest(client: Client) -> None:
    client.post(PAGE, FORM)
    since = Subscription.objects.get(event="failed", channel="email").since
    changed = {name: value for name, value in FORM.items() if name != "ended_email"}
    assert client.post(PAGE, changed).status_code == 302
    assert chosen() == {("failed", "email"), ("failed", "webhook")}
    assert Subscription.objects.get(event="failed", channel="email").since == since


def test_the_secret_is_shown_once(client: Client) -> None:
    answered = client.post(PAGE, FORM)
    secret = Recipient.objects.get().secret
    assert len(secret) > 40
    assert secret in answered.content.decode()
    assert "no-store" in answered.headers["Cache-Control"]
    assert secret not in get(client)
    assert secret not in client.post(PAGE, FORM, follow=True).content.decode()
    renewed = client.post(f"{PAGE}/secret").content.decode()
    again = Recipient.objects.get().secret
    assert again != secret
    assert again in renewed


def test_without_a_webhook_there_is_no_secret(client: Client) -> None:
    page = client.post(f"{PAGE}/secret", follow=True).content.decode()
    assert "No webhook is configured" in page
    assert not Recipient.objects.exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"email": "nonsense"}, "valid email"),
        ({"email": ""}, "Enter an address"),
        ({"webhook_url": ""}, "Enter an address"),
        ({"webhook_url": "https://evil.example/"}, "not among the allowed hosts"),
        ({"webhook_url": "http://hooks.example.org/"}, "HTTPS is required"),
        ({"webhook_url": "x" * 600}, "at most 500"),
    ],
)
def test_what_is_wrong_is_said(client: Client, change: dict[str, str], words: str) -> None:
    assert words in client.post(PAGE, FORM | change).content.decode()
    assert chosen() == set()


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/in",
        "https://HOOKS.example.org",
        "https://hooks.example.org:443/",
        "https://other.test:8443/",
        "http://127.0.0.1:9000/hook",
    ],
)
def test_an_address_of_an_allowed_host_is_allowed(url: str) -> None:
    assert parse_address(url).path


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.org",
        "ftp://hooks.example.org/",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https://hooks.example.org:8443/",
        "https://other.test/",
        "http://127.0.0.1/",
        "http://127.0.0.1:9001/",
        "http://localhost:9000/",
        "http://169.254.169.254/latest",
        "http://[::ffff:127.0.0.1]:9000/",
        "https://hooks.example.org@evil.example/",
        "https://user:word@hooks.example.org/",
        "https://hooks.example.org.evil.example/",
        "https://hooks.example.org\\@evil.example/",
        "https://hooks.example.org/\r\nX-Other: 1",
        "https://hooks.example.org/a b",
        "https://hooks.example.org:99999/",
        "https://hooks.example.org/#part",
        "https://hööks.example.org/",
    ],
)
def test_every_other_address_is_refused(url: str) -> None:
    with pytest.raises(WebhookError):
        parse_address(url)


def test_a_signature_depends_on_body_time_and_secret() -> None:
    signed = sign(b"body", secret="a", seconds=1)
    assert signed == sign(b"body", secret="a", seconds=1)
    others = [("other", "a", 1), ("body", "b", 1), ("body", "a", 2)]
    assert signed not in {
        sign(body.encode(), secret=secret, seconds=seconds) for body, secret, seconds in others
    }


def test_a_test_goes_every_way_that_is_set_up(client: Client) -> None:
    page = client.post(f"{PAGE}/test", follow=True).content.decode()
    assert "Save an address" in page
    client.post(PAGE, FORM)
    client.post(f"{PAGE}/test")
    assert set(Notification.objects.values_list("event", "channel")) == {
        ("test", "email"),
        ("test", "webhook"),
    }
    assert 'hx-trigger="every 5s"' in get(client, **HTMX)
    Notification.objects.update(status="sent")
    assert "hx-get" not in get(client, **HTMX)


def add_notification(
    recipient: Recipient, experiment: Experiment | None = None, **values: Any
) -> Notification:
    given = {"event": "failed", "channel": "email", "subject": "first failed", "text": "why"}
    return Notification.objects.create(
        recipient=recipient, experiment=experiment, due=timezone.now(), **(given | values)
    )


def test_what_was_sent_is_shown_with_tries_and_errors(client: Client, alice: User) -> None:
    mine = Recipient.objects.create(user=alice)
    add_notification(
        mine, status="given_up", attempts=8, error=f"refused {HOSTILE}", subject=HOSTILE
    )
    add_notification(Recipient.objects.create(user=make_person("bob")), subject="of bob")
    page = get(client)
    assert "given up" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert "of bob" not in page


@pytest.mark.parametrize(
    "headers, is_whole",
    [({}, True), (HTMX, False), (HTMX | {"HX-History-Restore-Request": "true"}, True)],
)
def test_htmx_gets_the_region_alone(
    client: Client, headers: dict[str, str], is_whole: bool
) -> None:
    assert ("<html" in get(client, **headers)) == is_whole


def test_methods_and_roles(client: Client) -> None:
    nobody = Client()
    nobody.force_login(make_person("nora"))
    for path in (PAGE, f"{PAGE}/secret", f"{PAGE}/test"):
        assert client.put(path).status_code == 405
        assert Client().post(path, FORM).status_code == 302
        assert nobody.post(path, FORM).status_code == 403
    assert client.get(f"{PAGE}/test").status_code == 405
    assert not Recipient.objects.exists()


def test_the_page_asks_the_database_as_often_for_many(client: Client, alice: User) -> None:
    mine = Recipient.objects.create(user=alice)
    experiment = Experiment.objects.create(name="first", recipe={}, seed=1)

    def count() -> int:
        with CaptureQueriesContext(connection) as asked:
            get(client)
        return len(asked)

    add_notification(mine, experiment)
    before = count()
    for _ in range(10):
        add_notification(mine, experiment)
    assert count() == before <= 9
