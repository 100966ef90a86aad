"""Notices: written once for each occasion, sent once, tried again, and only to who may know."""

import contextlib
import hashlib
import hmac
import http.server
import json
import smtplib
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core import mail
from django.db.models.functions import Now
from django.utils import timezone
from pytest_django.fixtures import Settings

from webapp.experiments.models import Experiment, Iteration
from webapp.notifications.models import (
    Channel,
    EventType,
    Notification,
    NotificationEvent,
    Recipient,
    Subscription,
)
from webapp.notifications.outbox import write_notifications, write_test
from workers.jobs import send_notifications
from workers.jobs.send_notifications import MAX_ATTEMPTS, compute_pause_seconds, send_due

pytestmark = pytest.mark.django_db

ALARM = {"name": "length_growth", "sentence": "Responses grew.", "advice": "Raise rho."}


@dataclass
class Hook:
    """A real server on this machine that takes webhooks."""

    answers: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    signatures: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?who=me"


@pytest.fixture
def hook(settings: Settings) -> Iterator[Hook]:
    seen = Hook()

    class Taker(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            seen.signatures.append(self.headers["X-Meta-Reward-Signature"])
            seen.paths.append(self.path)
            self.send_response(seen.answers.pop(0) if seen.answers else 204)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    seen.port = server.server_port
    settings.META_REWARD_WEBHOOK_HOSTS = [f"127.0.0.1:{seen.port}"]
    yield seen
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _has_mail(settings: Settings) -> None:
    settings.EMAIL_HOST = "mail.test"
    settings.DEFAULT_FROM_EMAIL = "site@example.org"


def make_recipient(name: str, *, url: str = "", role: str = "operator") -> Recipient:
    person = User.objects.create_user(name, email=f"{name}@example.org")
    person.groups.set(Group.objects.filter(name=role))
    return Recipient.objects.create(user=person, webhook_url=url, secret="s3cret")


def choose(recipient: Recipient, *events: EventType, channel: Channel = Channel.EMAIL) -> None:
    for event in events:
        Subscription.objects.create(recipient=recipient, event=event, channel=channel)


@pytest.fixture
def alice(db: None) -> Recipient:
    return make_recipient("alice")


@pytest.fixture
def iteration(alice: Recipient) -> Iteration:
    experiment = Experiment.objects.create(
        name="first", owner=alice.user, recipe={"iterations": 4}, seed=1
    )
    return Iteration.objects.create(
        experiment=experiment, number=1, driver="workers", status="running"
    )


def end(iteration: Iteration, status: str = "finished", **values: Any) -> None:
    Iteration.objects.filter(pk=iteration.pk).update(
        status=status, finished=timezone.now(), **values
    )


def events() -> list[str]:
    return sorted(Notification.objects.values_list("event", flat=True))


# Which notices are written


@pytest.mark.parametrize(
    "status, values, expected",
    [
        ("finished", {}, ["ended", "waits"]),
        ("finished", {"driver": "command"}, ["ended"]),
        ("finished", {"metrics": {"alarms": [ALARM]}}, ["alarm", "ended", "waits"]),
        ("failed", {"message": "no room"}, ["failed"]),
        ("no_pairs", {}, ["failed"]),
        ("paused", {}, ["waits"]),
        ("interrupted", {}, ["waits"]),
        ("cancelled", {}, []),
        ("running", {}, []),
    ],
)
def test_what_has_come_to_rest_is_told(
    iteration: Iteration,
    alice: Recipient,
    status: str,
    values: dict[str, Any],
    expected: list[str],
) -> None:
    choose(alice, EventType.ENDED, EventType.FAILED, EventType.ALARM, EventType.WAITS)
    end(iteration, status, **values)
    write_notifications()
    assert events() == expected


def test_an_iteration_that_is_followed_by_another_waits_for_nobody(
    iteration: Iteration, alice: Recipient
) -> None:
    choose(alice, EventType.WAITS)
    Experiment.objects.update(target_iteration=2)
    end(iteration)
    assert write_notifications() == 0


def test_looking_again_writes_nothing_again(iteration: Iteration, alice: Recipient) -> None:
    choose(alice, EventType.ENDED)
    end(iteration)
    assert [write_notifications() for _ in range(3)] == [1, 0, 0]
    NotificationEvent.objects.all().delete()  # as if the writer had died before recording it
    Notification.objects.all().delete()
    assert write_notifications() == 1


def test_one_that_failed_again_is_told_again(iteration: Iteration, alice: Recipient) -> None:
    choose(alice, EventType.FAILED)
    end(iteration, "failed")
    write_notifications()
    end(iteration, "failed")
    write_notifications()
    assert events() == ["failed", "failed"]


def test_what_ended_before_somebody_wanted_to_know_is_not_told(
    iteration: Iteration, alice: Recipient
) -> None:
    end(iteration)
    choose(alice, EventType.ENDED)
    assert write_notifications() == 0


def test_people_hear_only_of_what_they_may_see_and_want(iteration: Iteration) -> None:
    bob, carol, dave = (
        make_recipient("bob"),
        make_recipient("carol"),
        make_recipient("dave", role="none"),
    )
    for recipient in (bob, carol, dave):
        choose(recipient, EventType.ENDED)
    Recipient.objects.exclude(user__username="carol").update(only_own=False)
    end(iteration)
    write_notifications()
    assert [notification.recipient for notification in Notification.objects.all()] == [bob]


def test_a_private_experiment_is_nobody_elses_business(
    iteration: Iteration, alice: Recipient
) -> None:
    bob = make_recipient("bob")
    Recipient.objects.update(only_own=False)
    choose(alice, EventType.ENDED)
    choose(bob, EventType.ENDED)
    Experiment.objects.update(is_private=True)
    end(iteration)
    write_notifications()
    assert [notification.recipient for notification in Notification.objects.all()] == [alice]


# How they are sent


def test_an_email_says_what_happened(
    iteration: Iteration, alice: Recipient, settings: Settings
) -> None:
    settings.META_REWARD_SITE_URL = "https://rewards.example"
    choose(alice, EventType.ALARM)
    end(iteration, metrics={"alarms": [ALARM]})
    write_notifications()
    assert send_due() == 1
    assert send_due() == 0
    message = mail.outbox[0]
    assert message.to == ["alice@example.org"]
    assert message.subject == "[Meta-Reward] first: iteration 1 raised 1 alarm"
    assert "Responses grew.\nRaise rho." in message.body
    assert "https://rewards.example/experiments/first/iterations/1" in message.body
    assert len(mail.outbox) == 1


def test_a_webhook_gets_a_signed_body(hook: Hook, iteration: Iteration) -> None:
    """The receiver computes the HMAC of time, full stop and body, and finds the header's."""
    recipient = make_recipient("hal", url=hook.url)
    Recipient.objects.update(only_own=False)
    choose(recipient, EventType.FAILED, channel=Channel.WEBHOOK)
    end(iteration, "failed", message="no room <script>")
    write_notifications()
    assert send_due() == 1
    body = json.loads(hook.bodies[0])
    assert (body["event"], body["experiment"], body["iteration"]) == ("failed", "first", 1)
    assert body["id"] == Notification.objects.get().pk
    assert "no room <script>" in body["text"]
    assert hook.paths == ["/hook?who=me"]
    time, signed = hook.signatures[0].split(",")
    expected = hmac.new(
        b"s3cret", time.removeprefix("t=").encode() + b"." + hook.bodies[0], hashlib.sha256
    ).hexdigest()
    assert signed == f"v1={expected}"


def waiting_webhook(hook: Hook) -> Notification:
    return write_test(make_recipient("hal", url=hook.url), Channel.WEBHOOK)


def test_what_was_not_taken_is_tried_again_later(hook: Hook) -> None:
    hook.answers = [500, 302]
    notification = waiting_webhook(hook)
    assert send_due() == 0
    notification.refresh_from_db()
    assert (notification.status, notification.attempts, notification.error) == (
        "waiting",
        1,
        "the server responded with status 500",
    )
    assert notification.due > timezone.now() + timedelta(seconds=10)
    assert send_due() == 0
    assert len(hook.bodies) == 1, "it is not due yet"
    Notification.objects.update(due=Now())
    send_due()
    notification.refresh_from_db()
    assert "a redirect, which is not followed" in notification.error
    assert "/elsewhere" not in hook.paths
    Notification.objects.update(due=Now())
    assert send_due() == 1
    notification.refresh_from_db()
    assert (notification.status, notification.attempts, notification.error) == ("sent", 3, "")


def test_after_some_tries_it_is_given_up(hook: Hook) -> None:
    hook.answers = [500] * 20
    notification = waiting_webhook(hook)
    for _ in range(MAX_ATTEMPTS + 3):
        Notification.objects.update(due=Now())
        send_due()
    notification.refresh_from_db()
    assert (notification.status, notification.attempts) == ("given_up", MAX_ATTEMPTS)
    assert len(hook.bodies) == MAX_ATTEMPTS


def test_pauses_grow_to_six_hours() -> None:
    assert [compute_pause_seconds(attempts) for attempts in (1, 2, 3, 4)] == [15, 60, 240, 960]
    assert compute_pause_seconds(MAX_ATTEMPTS) == 6 * 3600


def test_a_server_that_is_not_there_is_an_error_to_be_read(hook: Hook, settings: Settings) -> None:
    settings.META_REWARD_WEBHOOK_HOSTS = ["127.0.0.1:1"]
    write_test(make_recipient("hal", url="http://127.0.0.1:1/"), Channel.WEBHOOK)
    send_due()
    assert "ConnectionRefusedError" in Notification.objects.get().error


def test_a_host_that_is_no_longer_allowed_gets_nothing(hook: Hook, settings: Settings) -> None:
    waiting_webhook(hook)
    settings.META_REWARD_WEBHOOK_HOSTS = []
    send_due()
    assert "not among the allowed hosts" in Notification.objects.get().error
    assert hook.bodies == []


def test_a_sender_that_died_is_followed_by_another(hook: Hook) -> None:
    """While its claim lasts nobody else sends; afterwards it is sent once, under the same id."""
    notification = waiting_webhook(hook)
    held = {"status": "sending", "token": "0" * 32, "attempts": 1}
    Notification.objects.update(**held, lease_until=timezone.now() + timedelta(seconds=30))
    assert send_due() == 0
    Notification.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert send_due() == 1
    assert send_due() == 0
    assert [json.loads(body)["id"] for body in hook.bodies] == [notification.pk]


def test_a_sender_that_was_overtaken_changes_nothing(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    notification = waiting_webhook(hook)

    async def arrive(notices: Sequence[Notification]) -> list[None]:
        return [None] * len(notices)

    def overtake(notices: Sequence[Notification]) -> Coroutine[Any, Any, list[None]]:
        Notification.objects.update(status="sent", token=None, sent=timezone.now())
        return arrive(notices)

    monkeypatch.setattr(send_notifications, "_deliver_all", overtake)
    assert send_due() == 0
    notification.refresh_from_db()
    assert notification.status == "sent"


@pytest.mark.parametrize("change", ["private", "closed", "no address", "gone"])
def test_what_may_be_known_is_asked_again_when_it_is_sent(
    iteration: Iteration, change: str
) -> None:
    bob = make_recipient("bob")
    Recipient.objects.update(only_own=False)
    choose(bob, EventType.ENDED)
    end(iteration)
    write_notifications()
    if change == "private":
        Experiment.objects.update(is_private=True)
    elif change == "closed":
        User.objects.filter(username="bob").update(is_active=False)
    elif change == "gone":
        Experiment.objects.all().delete()
    else:
        User.objects.filter(username="bob").update(email="")
    assert send_due() == 0
    notification = Notification.objects.get()
    assert notification.status == "given_up"
    assert notification.error
    assert mail.outbox == []


def test_a_mail_server_that_refuses_is_tried_again(
    alice: Recipient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, messages: object) -> int:
        raise smtplib.SMTPServerDisconnected("gone away")

    monkeypatch.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", refuse)
    write_test(alice, Channel.EMAIL)
    send_due()
    notice = Notification.objects.get()
    assert (notice.status, notice.error) == ("waiting", "gone away")


# A server that does not play by the rules


def _say_nothing(connection: socket.socket, stop: threading.Event) -> None:
    stop.wait()


def _drip(connection: socket.socket, stop: threading.Event) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"a" * 10_000:
        if stop.wait(0.05):
            return
        connection.sendall(bytes([byte]))


def _send_headers_forever(connection: socket.socket, stop: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not stop.is_set():
        connection.sendall(b"X: " + b"a" * 60_000 + b"\r\n")


def _send_a_long_line(connection: socket.socket, stop: threading.Event) -> None:
    while not stop.is_set():
        connection.sendall(b"HTTP/1.1" * 8000)


def _send_a_body_forever(connection: socket.socket, stop: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while not stop.is_set():
        connection.sendall(b"a" * 60_000)


def _send_garbage(connection: socket.socket, stop: threading.Event) -> None:
    connection.sendall(b"\0" * 1000)


Behavior = Callable[[socket.socket, threading.Event], None]


@pytest.fixture
def serve_badly() -> Iterator[Callable[[Behavior], int]]:
    """Start a server that answers every connection by a behavior; returns its port."""
    stop = threading.Event()
    servers: list[socketserver.ThreadingTCPServer] = []

    def start(behave: Behavior) -> int:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    self.request.recv(65_536)
                    behave(self.request, stop)

        servers.append(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return int(servers[-1].server_address[1])

    yield start
    stop.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "behave", [_say_nothing, _drip, _send_headers_forever, _send_a_long_line, _send_garbage]
)
def test_a_server_that_holds_its_answer_back_holds_nobody_elses_notices(
    hook: Hook,
    serve_badly: Callable[[Behavior], int],
    behave: Behavior,
    scheme: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("webapp.notifications.webhooks.DEADLINE_SECONDS", 0.6)
    port = serve_badly(behave)
    settings.META_REWARD_WEBHOOK_HOSTS = [*settings.META_REWARD_WEBHOOK_HOSTS, f"127.0.0.1:{port}"]
    mallory = make_recipient("mallory", url=f"{scheme}://127.0.0.1:{port}/")
    slow = [write_test(mallory, Channel.WEBHOOK) for _ in range(20)]
    write_test(make_recipient("hal", url=hook.url), Channel.WEBHOOK)
    write_test(make_recipient("mia"), Channel.EMAIL)
    monkeypatch.setattr(send_notifications, "EVERY_SECONDS", 0.0)
    begin = time.monotonic()
    assert send_due() == 2
    assert time.monotonic() - begin < 5, "one deadline, and not one for each notice"
    assert (len(hook.bodies), len(mail.outbox)) == (1, 1)
    slow[0].refresh_from_db()
    assert (slow[0].status, slow[0].attempts) == ("waiting", 1)
    assert slow[0].error
    assert Notification.objects.filter(recipient=mallory, attempts=0).count() == 19


def test_the_body_of_an_answer_is_not_read(
    serve_badly: Callable[[Behavior], int], settings: Settings
) -> None:
    port = serve_badly(_send_a_body_forever)
    settings.META_REWARD_WEBHOOK_HOSTS = [f"127.0.0.1:{port}"]
    write_test(make_recipient("hal", url=f"http://127.0.0.1:{port}/"), Channel.WEBHOOK)
    begin = time.monotonic()
    assert send_due() == 1
    assert time.monotonic() - begin < 5


def test_a_name_that_turns_to_this_machine_is_not_connected_to(
    hook: Hook, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name's own server answers each look-up otherwise: by what passes, then by what does not.

    The port is the one of a real server here, so that a connection to 127.0.0.1 would be seen.
    """
    looked_up: list[str] = []
    answers = ["127.0.0.1", "169.254.169.254", "::1", "0.0.0.0", "::ffff:127.0.0.1", "fe80::1"]

    def resolve(host: str, port: int, **_: object) -> list[Any]:
        looked_up.append(host)
        ip = answers[len(looked_up) - 1]
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (ip, port))]

    monkeypatch.setattr("webapp.notifications.webhooks.socket.getaddrinfo", resolve)
    settings.META_REWARD_WEBHOOK_HOSTS = [f"rebind.example:{hook.port}"]
    recipient = make_recipient("hal", url=f"https://rebind.example:{hook.port}/")
    for ip in answers:
        notice = write_test(recipient, Channel.WEBHOOK)
        assert send_due() == 0
        notice.refresh_from_db()
        assert f"rebind.example resolves to {ip}" in notice.error
        Notification.objects.filter(pk=notice.pk).delete()
    assert len(looked_up) == len(answers), "what was checked is what is connected to"
    assert hook.bodies == []


def test_a_name_is_looked_up_once_and_that_place_is_asked(
    hook: Hook, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look-up, if there were one, would lead elsewhere."""
    answers = iter(["127.0.0.1", "192.0.2.1"])

    def resolve(host: str, port: int, **_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr("webapp.notifications.webhooks.socket.getaddrinfo", resolve)
    settings.META_REWARD_WEBHOOK_HOSTS = [f"localhost:{hook.port}"]
    write_test(make_recipient("hal", url=f"http://localhost:{hook.port}/"), Channel.WEBHOOK)
    assert send_due() == 1
    assert next(answers) == "192.0.2.1"
