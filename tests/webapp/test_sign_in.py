"""Signing in: guessers are turned away, and what happens to accounts is written down."""

from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from tests.webapp.conftest import make_person
from webapp.accounts import login_throttle
from webapp.activity.models import Action, Activity

pytestmark = pytest.mark.django_db


def sign_in(
    name: str = "alice",
    password: str = "wrong",
    *,
    address: str = "10.0.0.1",
    **headers: str,
) -> str:
    """What the page says; empty where the person is in."""
    answer = Client().post(
        "/account/login",
        {"username": name, "password": password},
        REMOTE_ADDR=address,
        headers=headers,
    )
    return "" if answer.status_code == 302 else answer.content.decode()


def kinds() -> list[str]:
    return list(Activity.objects.order_by("pk").values_list("action", flat=True))


def test_after_five_wrong_passwords_the_right_one_does_not_help(alice: User) -> None:
    for _ in range(4):
        assert "Too many" not in sign_in()
    assert "Too many wrong passwords: wait 15 minutes" in sign_in()
    assert "Too many wrong passwords" in sign_in(password="correct horse")
    assert sign_in(password="correct horse", address="10.0.0.2") == ""


def test_the_admin_has_no_door_of_its_own(client: Client, alice: User) -> None:
    stranger = Client()
    stranger.post("/admin/login/", {"username": "alice", "password": "correct horse"})
    assert "_auth_user_id" not in stranger.session
    answer = stranger.get("/admin/auth/user/", follow=True)
    assert answer.redirect_chain[-1] == ("/account/login?next=/admin/auth/user/", 302)
    client.force_login(alice)
    assert client.get("/admin/", follow=True).status_code == 403


def test_the_lock_opens_by_itself(alice: User) -> None:
    for _ in range(9):
        sign_in()
    Activity._base_manager.update(
        created=timezone.now() - login_throttle.WINDOW - timedelta(seconds=1)
    )
    assert sign_in(password="correct horse") == ""


def test_asking_while_locked_does_not_prolong_it_nor_fill_the_log(alice: User) -> None:
    for _ in range(12):
        sign_in()
    assert kinds().count("failed") == 5
    assert kinds().count("refused") == 1


def test_whoever_signs_in_begins_anew(alice: User) -> None:
    for _ in range(3):
        for _ in range(4):
            sign_in()
        assert sign_in(password="correct horse") == ""


def test_one_address_cannot_try_one_password_on_many_names(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_throttle, "MAX_PER_ADDRESS", 8)
    for number in range(7):
        assert "Too many" not in sign_in(f"name{number}")
    assert "Too many" in sign_in("name8")
    assert "Too many" in sign_in(password="correct horse")
    assert sign_in(password="correct horse", address="10.0.0.2") == ""


def test_many_addresses_cannot_try_one_name(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_throttle, "MAX_PER_NAME", 8)
    for number in range(8):
        assert ("Too many" in sign_in(address=f"10.1.0.{number}")) == (number == 7)
    assert "Too many" in sign_in(password="correct horse", address="10.0.0.2")


def test_all_addresses_of_an_ipv6_network_count_as_one(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        found = sign_in(address=f"2001:db8:0:7:{number}::{number}")
        assert ("Too many" in found) == (number == 4)
    assert "Too many" in sign_in(password="correct horse", address="2001:db8:0:7::99")
    assert sign_in(password="correct horse", address="2001:db8:0:8::1") == ""
    monkeypatch.setattr(login_throttle, "MAX_PER_ADDRESS", 8)
    for number in range(5, 8):
        sign_in(f"name{number}", address=f"2001:db8:0:7::{number}")
    assert "Too many" in sign_in("name9", address="2001:db8:0:7:ffff::1")


def test_a_name_that_does_not_exist_is_treated_alike(alice: User) -> None:
    known, unknown = ([sign_in(name) for _ in range(6)] for name in ("alice", "nobody"))
    assert ["Too many" in page for page in known] == ["Too many" in page for page in unknown]


def test_an_address_is_only_believed_from_our_own_proxies(alice: User, settings: Settings) -> None:
    sign_in(**{"X-Forwarded-For": "6.6.6.6"})
    assert Activity.objects.latest("pk").address == "10.0.0.1"
    settings.META_REWARD_PROXIES = 1
    sign_in(**{"X-Forwarded-For": "6.6.6.6, 192.0.2.7"})
    assert Activity.objects.latest("pk").address == "192.0.2.7"
    sign_in()
    assert Activity.objects.latest("pk").address is None


def test_what_happens_to_accounts_is_written_down_with_who_did_it(alice: User) -> None:
    root = User.objects.create_superuser("root", password="correct horse")
    Activity._base_manager.all().delete()
    client = Client()
    client.force_login(root)
    page = f"/admin/auth/user/{alice.pk}/change/"
    form = {
        "username": "alice", "is_active": "on", "is_staff": "on",
        "groups": [Group.objects.get(name="admin").pk],
        "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00",
    }  # fmt: skip
    assert client.post(page, form).status_code == 302
    found = {row.action: row for row in Activity.objects.exclude(action="signed_in")}
    assert found["account_changed"].details == "is_staff: False -> True"
    assert "given: admin" in set(Activity.objects.values_list("details", flat=True))
    assert {row.actor for row in found.values()} == {root}
    client.post(f"/admin/auth/user/{alice.pk}/delete/", {"post": "yes"})
    assert Activity.objects.latest("pk").action == Action.ACCOUNT_DELETED
    assert Activity.objects.latest("pk").object_name == "alice"


def test_tokens_passwords_and_signing_out_are_written_down(alice: User, client: Client) -> None:
    Activity._base_manager.all().delete()
    client.post("/account/tokens", {"name": "nightly", "days": "30", "scope": "read"})
    client.post(f"/account/tokens/{alice.api_tokens.get().pk}/revoke")
    new = {
        "old_password": "correct horse",
        "new_password1": "battery staple",
        "new_password2": "battery staple",
    }
    assert client.post("/account/password", new).status_code == 302
    client.post("/account/logout")
    assert kinds() == ["token_made", "token_revoked", "password", "signed_out"]
    assert "nightly" in Activity.objects.get(action="token_made").details


def test_no_password_and_no_token_is_ever_in_the_log(alice: User, client: Client) -> None:
    sign_in(password="a very secret guess")
    page = client.post(
        "/account/tokens", {"name": "nightly", "days": "30", "scope": "read"}
    ).content.decode()
    secret = page.partition("mr_")[2][:40]
    written = repr(list(Activity.objects.values()))
    assert "a very secret guess" not in written
    assert len(secret) == 40
    assert secret[7:] not in written


def test_an_account_that_a_command_made_is_written_down() -> None:
    out = StringIO()
    call_command("createsuperuser", username="ada", email="", interactive=False, stdout=out)
    event = Activity.objects.get(action=Action.ACCOUNT_MADE)
    assert (event.object_name, event.actor, event.details) == (
        "ada",
        None,
        "is_staff, is_superuser",
    )


def test_only_admins_see_the_log_of_accounts_and_nobody_edits_it(alice: User) -> None:
    sign_in()
    event = Activity.objects.latest("pk")
    client = Client()
    for role, status in (("operator", 403), ("admin", 200)):
        person = make_person(f"staff-{role}", role)
        User.objects.filter(pk=person.pk).update(is_staff=True)
        client.force_login(User.objects.get(pk=person.pk))
        assert client.get("/admin/activity/activity/").status_code == status
    assert (
        client.post(f"/admin/activity/activity/{event.pk}/delete/", {"post": "yes"}).status_code
        == 403
    )
    assert (
        client.post(f"/admin/activity/activity/{event.pk}/change/", {"action": "x"}).status_code
        == 403
    )


@pytest.mark.parametrize(
    "password", ["short-pass1", "alice-is-operator", "111222333444555", "q1w2e3r4t5y6"]
)
def test_a_weak_password_is_refused(alice: User, password: str) -> None:
    alice.username = "alice-is-operator"
    with pytest.raises(ValidationError):
        validate_password(password, alice)


@pytest.mark.parametrize("password", ["correct horse", "naïve 漢字 🐎 passphrase", "x y" * 40])
def test_a_long_password_of_any_characters_passes(alice: User, password: str) -> None:
    validate_password(password, alice)


def test_a_changed_password_ends_the_other_sessions(alice: User, client: Client) -> None:
    other = Client()
    other.force_login(alice)
    new = {
        "old_password": "correct horse",
        "new_password1": "battery staple",
        "new_password2": "battery staple",
    }
    client.post("/account/password", new)
    assert client.get("/").status_code == 200
    assert other.get("/").status_code == 302


def test_a_sign_in_leads_to_no_other_site(alice: User) -> None:
    answer = Client().post(
        "/account/login?next=//evil.example/x",
        {"username": "alice", "password": "correct horse", "next": "//evil.example/x"},
    )
    assert answer.headers["Location"] == "/"


def test_a_new_session_begins_at_signing_in(alice: User) -> None:
    client = Client()
    client.get("/account/login")
    session = client.session
    session["planted"] = "yes"
    session.save()
    planted = str(session.session_key)
    client.cookies["sessionid"] = planted
    client.post("/account/login", {"username": "alice", "password": "correct horse"})
    assert client.session.session_key != planted
    assert client.cookies["sessionid"]["httponly"]
