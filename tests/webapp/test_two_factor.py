"""A code of an app after the password, for who wants it."""

import base64
import re
import time

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django_otp.oath import TOTP
from django_otp.plugins.otp_totp.models import TOTPDevice

from webapp.activity.models import Action, Activity

pytestmark = pytest.mark.django_db
PAGE = "/account/2fa"


def shown(secret: str, *, steps_on: int = 0) -> str:
    """What an app that has read the secret shows now, or some half minutes later."""
    app = TOTP(base64.b32decode(secret))
    app.time = time.time() + 30 * steps_on
    return f"{app.token():06d}"


@pytest.fixture
def own(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


@pytest.fixture
def secret(own: Client) -> str:
    own.post(f"{PAGE}/start")
    found = re.search(r"<code>([A-Z2-7]{32})</code>", own.get(PAGE).content.decode())
    assert found
    return found[1]


@pytest.fixture
def codes(own: Client, secret: str) -> list[str]:
    """Turned on; the codes for paper."""
    page = own.post(f"{PAGE}/confirm", {"code": shown(secret)}).content.decode()
    return re.findall(r"<li><code>(\w+)</code>", page)


def sign_in(**code: str) -> bool:
    answer = Client().post(
        "/account/login", {"username": "alice", "password": "correct horse", **code}
    )
    return answer.status_code == 302


def test_the_password_alone_lets_nobody_in(secret: str, codes: list[str]) -> None:
    assert not sign_in()
    assert not sign_in(code="000000")
    TOTPDevice.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
    code = shown(secret, steps_on=1)
    assert sign_in(code=code)
    assert not sign_in(code=code)


def test_each_code_on_paper_lets_in_once(codes: list[str]) -> None:
    assert len(set(codes)) == 8
    assert sign_in(code=f" {codes[0].upper()} ")
    assert not sign_in(code=codes[0])


def test_a_secret_that_no_app_has_shown_asks_nobody(secret: str, own: Client) -> None:
    assert sign_in()
    answer = own.post(f"{PAGE}/confirm", {"code": "000000"})
    assert answer.status_code == 422
    assert sign_in()


def test_the_secret_is_never_shown_again(own: Client, secret: str, codes: list[str]) -> None:
    page = own.get(PAGE).content.decode()
    assert secret not in page
    assert codes[0] not in page
    own.post(f"{PAGE}/start")
    assert not TOTPDevice.objects.filter(confirmed=False).exists()


def test_wrong_codes_lock_like_wrong_passwords(codes: list[str]) -> None:
    for _ in range(5):
        assert not sign_in(code="000000")
    assert not sign_in(code=codes[0])
    assert Activity.objects.filter(action=Action.REFUSED, object_name="alice").exists()


def test_it_is_removed_by_whoever_has_a_code_and_both_are_noted(
    own: Client, codes: list[str]
) -> None:
    assert own.post(f"{PAGE}/remove", {"code": "000000"}).status_code == 422
    assert not sign_in()
    assert own.post(f"{PAGE}/remove", {"code": codes[1]}).status_code == 302
    assert sign_in()
    noted = Activity.objects.filter(action=Action.SECOND_FACTOR).order_by("pk")
    assert list(noted.values_list("object_name", "details")) == [
        ("alice", "set up"),
        ("alice", "removed"),
    ]


def test_an_admin_helps_who_has_lost_it_and_reads_no_secret(
    secret: str, codes: list[str], alice: User
) -> None:
    admin = Client()
    admin.force_login(User.objects.create_superuser("root"))
    device = TOTPDevice.objects.get()
    page = admin.get(f"/admin/otp_totp/totpdevice/{device.pk}/change/").content.decode()
    assert "alice" in page
    assert device.key not in page
    assert secret not in page
    admin.post(f"/admin/otp_totp/totpdevice/{device.pk}/delete/", {"post": "yes"})
    assert sign_in()
