"""Who may touch which account, and that no session or token outlives what it was made under."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.utils import timezone
from django_otp.plugins.otp_totp.models import TOTPDevice
from pytest_django.fixtures import Settings

from tests.webapp.conftest import make_person
from webapp.accounts import roles, two_factor
from webapp.accounts.credentials import get_generation
from webapp.accounts.permissions import can_touch_account, get_users_with_permission
from webapp.accounts.reauthentication import RECENT_SECONDS
from webapp.api.models import ApiToken, TokenScope, make_token
from webapp.experiments.models import Experiment, Iteration, Job, JobKind, Shard, Stage, Worker

pytestmark = pytest.mark.django_db

PASSWORD: Final = "correct horse"


def sign_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def make_staff(name: str, *names: str) -> User:
    user = make_person(name, *names)
    user.is_staff = True
    user.save()
    return user


def call_api(token: str, path: str = "experiments", method: str = "GET", **kwargs: Any) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return Client().generic(method, f"/api/v1/{path}", headers=headers, **kwargs).status_code


def age_session(client: Client, seconds: float = RECENT_SECONDS + 1) -> None:
    """Let a browser's last authentication be so long ago."""
    session = client.session
    session["authenticated_at"] = time.time() - seconds
    session.save()


# Roles are what the code says.


def test_a_role_may_do_what_the_code_says_whatever_stands_in_the_database(alice: User) -> None:
    right = Permission.objects.get(codename="delete_experiment")
    Group.objects.get(name="operator").permissions.add(right)
    alice.user_permissions.add(right)
    made = Group.objects.create(name="made up")
    made.permissions.add(*Permission.objects.all())
    alice.groups.add(made)
    alice = User.objects.get(pk=alice.pk)
    assert not alice.has_perm("experiments.delete_experiment")
    assert alice.has_perm(roles.RUN)
    assert alice not in get_users_with_permission("experiments.delete_experiment")
    Group.objects.get(name="operator").permissions.clear()
    assert User.objects.get(pk=alice.pk).has_perm(roles.RUN)
    roles.make_roles()
    shown = Group.objects.get(name="operator").permissions.values_list("codename", flat=True)
    assert set(shown) == {"view_experiment", "run_experiment"}


@pytest.mark.parametrize("role", roles.PERMISSIONS)
def test_the_rights_of_a_role_and_its_holders_agree(role: str) -> None:
    user = User.objects.get(pk=make_person("r", role).pk)
    assert user.get_all_permissions() >= set(roles.PERMISSIONS[role])
    for permission in [*user.get_all_permissions(), "audit.delete_batch"]:
        holds = user in get_users_with_permission(permission)
        assert holds == user.has_perm(permission) == (role in roles.list_roles_with(permission))


@pytest.mark.parametrize("actor", ["admin", "superuser"])
def test_nobody_edits_roles_in_the_admin(actor: str) -> None:
    user = make_staff("ada", "admin")
    User.objects.filter(pk=user.pk).update(is_superuser=actor == "superuser")
    client, role = sign_in(User.objects.get()), Group.objects.get(name="viewer")
    everything = list(Permission.objects.values_list("pk", flat=True))
    given = {"name": "mine", "permissions": everything}
    assert client.get(f"/admin/auth/group/{role.pk}/change/").status_code == 200
    assert client.post("/admin/auth/group/add/", given).status_code == 403
    assert client.post(f"/admin/auth/group/{role.pk}/change/", given).status_code == 403
    assert client.post(f"/admin/auth/group/{role.pk}/delete/", {"post": "yes"}).status_code == 403
    assert set(Group.objects.values_list("name", flat=True)) == set(roles.PERMISSIONS)


# An admin touches nothing of a superuser.


def delete_by_admin(client: Client, where: str, pk: object) -> None:
    """Try the page of the row and the action of the list."""
    client.post(f"/admin/{where}/{pk}/delete/", {"post": "yes"})
    given = {"action": "delete_selected", "_selected_action": [pk], "index": 0, "post": "yes"}
    client.post(f"/admin/{where}/", given)


def test_an_admin_touches_no_device_and_no_token_of_a_superuser(alice: User) -> None:
    root = User.objects.create_superuser("root", password=PASSWORD)
    client = sign_in(make_staff("ada", "admin"))
    for owner in (root, alice):
        TOTPDevice.objects.create(user=owner, name="app", confirmed=True)
        make_token(owner, name="t", expires=None)
    for owner in (root, alice):
        delete_by_admin(client, "otp_totp/totpdevice", TOTPDevice.objects.get(user=owner).pk)
        token = ApiToken.objects.get(owner=owner)
        given = {"action": "expire_tokens", "_selected_action": [token.pk], "index": 0}
        client.post("/admin/api/apitoken/", given)
        token.refresh_from_db()
        assert (token.expires is None) == (owner == root)
        delete_by_admin(client, "api/apitoken", token.pk)
    assert list(TOTPDevice.objects.values_list("user__username", flat=True)) == ["root"]
    assert list(ApiToken.objects.values_list("owner__username", flat=True)) == ["root"]


@pytest.mark.parametrize(
    "query",
    [
        "api/apitoken/?digest__startswith=a",
        "api/apitoken/?owner__password__startswith=a",
        "auth/user/?password__startswith=a",
        "notices/recipient/?secret__startswith=a",
        "otp_totp/totpdevice/?key__startswith=a",
        "otp_totp/totpdevice/?user__password__startswith=a",
        "experiments/experiment/?owner__password__startswith=a",
    ],
)
def test_an_admin_cannot_guess_secrets_by_filtering(query: str) -> None:
    client = sign_in(make_staff("ada", "admin"))
    assert client.get(f"/admin/{query}").status_code == 400
    assert client.get(f"/admin/{query.partition('?')[0]}").status_code == 200


def test_the_admin_has_no_form_for_passwords_without_the_throttle() -> None:
    client = sign_in(make_staff("ada", "admin"))
    given = {"old_password": "wrong", "new_password1": "x", "new_password2": "x"}
    for answer in (
        client.get("/admin/password_change/"),
        client.post("/admin/password_change/", given),
    ):
        assert answer["Location"] == "/account/password"


def test_who_may_touch_whom(alice: User) -> None:
    root = User.objects.create_superuser("root")
    ada, closed = make_staff("ada", "admin"), User.objects.create_superuser("closed")
    User.objects.filter(pk=closed.pk).update(is_active=False)
    closed.refresh_from_db()
    people = {"root": root, "ada": ada, "alice": alice, "closed": closed}
    may = {
        (actor, account)
        for actor in people
        for account in people
        if can_touch_account(people[actor], people[account])
    }
    assert may == {("root", name) for name in people} | {("ada", "ada"), ("ada", "alice")}


def test_staff_see_in_the_admin_only_the_experiments_that_they_see_on_the_pages(
    iteration: Iteration,
) -> None:
    Experiment.objects.update(is_private=True, name="hush-hush")
    pk = Experiment.objects.get().pk
    for role, sees in {"viewer": False, "operator": False, "admin": True}.items():
        client = sign_in(make_staff(role, role))
        assert (
            "hush-hush" in client.get("/admin/experiments/experiment/").content.decode()
        ) == sees
        page = client.get(f"/admin/experiments/experiment/{pk}/change/", follow=True)
        assert ("hush-hush" in page.content.decode()) == sees


def test_rows_of_a_running_experiment_are_not_deleted_under_its_worker(
    iteration: Iteration,
) -> None:
    client = sign_in(User.objects.create_superuser("root"))
    pk = iteration.experiment.pk
    Iteration.objects.update(status="running")
    delete_by_admin(client, "experiments/experiment", pk)
    assert Experiment.objects.exists()
    deletions = Job.objects.filter(kind=JobKind.DELETE)
    assert not deletions.exists()
    Iteration.objects.update(status="finished")
    delete_by_admin(client, "experiments/experiment", pk)
    assert deletions.get().experiment_id == pk, "deleted by a job, as on its page"


def test_workers_do_not_name_private_experiments_to_others(iteration: Iteration) -> None:
    stage = Stage.objects.create(iteration=iteration, name="judge", title="Judge", position=1)
    shard = Shard.objects.create(stage=stage, index=0)
    now = timezone.now()
    Worker.objects.create(
        name="w", host="h", pid=1, queues="cpu", shard=shard, heartbeat=now, since=now, started=now
    )
    alice = User.objects.get(username="alice")
    Experiment.objects.update(is_private=True, name="hush-hush")
    seen = {
        name: [
            "hush-hush" in sign_in(user).get(path).content.decode()
            for path in ("/workers", "/api/v1/workers")
        ]
        for name, user in {
            "owner": alice,
            "admin": make_person("ada", "admin"),
            "operator": make_person("mallory", "operator"),
            "viewer": make_person("vera", "viewer"),
        }.items()
    }
    assert seen == {
        "owner": [True, True],
        "admin": [True, True],
        "operator": [False, False],
        "viewer": [False, False],
    }
    assert (
        "a private experiment"
        in sign_in(User.objects.get(username="vera")).get("/workers").content.decode()
    )


# Sessions and tokens end with what they were made under.


def _reset_by_admin(user: User) -> None:
    client = sign_in(make_staff("ada", "admin"))
    new = {"password1": "Zwetschge-17-blau", "password2": "Zwetschge-17-blau"}
    answer = client.post(f"/admin/auth/user/{user.pk}/password/", new | {"usable_password": "true"})
    assert answer.status_code == 302


def _change_own_password(user: User) -> None:
    new = "Zwetschge-17-blau"
    given = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert sign_in(user).post("/account/password", given).status_code == 302


def _close_and_open(user: User) -> None:
    for is_active in (False, True):
        user.is_active = is_active
        user.save()


def _set_up_second_factor(user: User) -> None:
    two_factor.start_setup(user)
    two_factor.finish_setup(user)


def _lose_second_factor(user: User) -> None:
    TOTPDevice.objects.create(user=user, confirmed=True)
    TOTPDevice.objects.all().delete()


CHANGES: Final[dict[str, Callable[[User], object]]] = {
    "a reset by an admin": _reset_by_admin,
    "a password of their own": _change_own_password,
    "a closed and opened account": _close_and_open,
    "a role given": lambda user: user.groups.add(Group.objects.get(name="auditor")),
    "a role taken": lambda user: user.groups.remove(Group.objects.get(name="viewer")),
    "all roles set": lambda user: user.groups.set([Group.objects.get(name="operator")]),
    "a role given from its side": lambda user: Group.objects.get(name="auditor").user_set.add(user),
    "a role emptied": lambda user: Group.objects.get(name="viewer").user_set.clear(),
    "a second factor set up": _set_up_second_factor,
    "a second factor taken away": _lose_second_factor,
    "staff": lambda user: (
        User.objects.filter(pk=user.pk)
        .get()
        .__class__(
            **{f.attname: getattr(user, f.attname) for f in User._meta.concrete_fields}
            | {"is_staff": True}
        )
        .save()
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_sessions_and_tokens_end_with_a_change_of_their_account(
    change: Callable[[User], object],
) -> None:
    user, other = make_person("vera", "viewer", "operator"), make_person("otto", "operator")
    client, others = sign_in(user), sign_in(other)
    token = make_token(user, name="t", expires=None)[1]
    kept = make_token(other, name="t", expires=None)[1]
    assert (client.get("/").status_code, call_api(token)) == (200, 200)
    change(User.objects.get(pk=user.pk))
    assert client.get("/")["Location"].startswith("/account/login")
    assert call_api(token) == 401
    assert (others.get("/").status_code, call_api(kept)) == (200, 200)
    again = User.objects.get(pk=user.pk)
    assert sign_in(again).get("/account/password").status_code == 200
    assert call_api(make_token(again, name="new", expires=None)[1]) == 200


def test_who_changes_their_own_password_stays_signed_in_there_alone(alice: User) -> None:
    here, elsewhere = sign_in(alice), sign_in(alice)
    new = "Zwetschge-17-blau"
    given = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert here.post("/account/password", given).status_code == 302
    assert here.get("/").status_code == 200
    assert elsewhere.get("/").status_code == 302


def test_a_sign_in_and_a_new_hash_of_the_same_password_end_nothing(
    alice: User, settings: Settings
) -> None:
    token, begun = make_token(alice, name="t", expires=None)[1], get_generation(alice)
    settings.PASSWORD_HASHERS = [
        "django.contrib.auth.hashers.PBKDF2PasswordHasher",
        "django.contrib.auth.hashers.MD5PasswordHasher",
    ]
    before = User.objects.get().password
    answer = Client().post("/account/login", {"username": "alice", "password": PASSWORD})
    assert answer.status_code == 302
    assert User.objects.get().password != before
    assert call_api(token) == 200
    assert get_generation(alice) == begun


def test_an_account_with_everything_can_be_deleted(alice: User) -> None:
    _set_up_second_factor(alice)
    make_token(alice, name="t", expires=None)
    sign_in(User.objects.create_superuser("root")).post(
        f"/admin/auth/user/{alice.pk}/delete/", {"post": "yes"}
    )
    assert not User.objects.filter(username="alice").exists()


# Tokens.


def test_a_token_does_what_its_scope_says_and_no_more(
    iteration: Iteration, alice: User, settings: Settings
) -> None:
    settings.META_REWARD_HF_TOKEN = "hf_x"
    Iteration.objects.update(status="finished", model_out="c" * 64)
    found = {}
    for scope in TokenScope:
        token = make_token(alice, name="t", expires=None, scope=scope)[1]
        kind: dict[str, Any] = {"method": "POST", "content_type": "application/json"}
        publish = "experiments/first/iterations/1/publish"
        found[scope.value] = [
            call_api(token),
            call_api(token, "experiments/first/pause", **kind),
            call_api(token, publish, data=b"{}", **kind),
            call_api(token, publish, data=b'{"repository": "a/b"}', **kind),
        ]
        Job.objects.all().delete()
    assert found["read"] == [200, 403, 403, 403]
    assert 403 not in found["run"][:3]
    assert found["run"][3] == 403
    assert 403 not in found["publish"]


def test_a_new_token_has_an_end_and_a_scope(client: Client, alice: User) -> None:
    client.post("/account/tokens", {"name": "a", "days": "", "scope": "read"})
    client.post("/account/tokens", {"name": "a", "days": "30", "scope": "everything"})
    client.post("/account/tokens", {"name": "a", "days": "99999", "scope": "read"})
    assert not ApiToken.objects.exists()
    client.post("/account/tokens", {"name": "a", "days": "365", "scope": "read"})
    row = ApiToken.objects.get()
    assert row.scope == TokenScope.READ
    assert row.expires is not None
    assert row.expires < timezone.now() + timedelta(days=366)


# Recent authentication, and one count of wrong secrets.

NEEDS_RECENT: Final = {
    "a token": ("/account/tokens", {"name": "a", "days": "30", "scope": "read"}),
    "a second factor": ("/account/2fa/start", {}),
    "its first code": ("/account/2fa/confirm", {"code": "000000"}),
    "its end": ("/account/2fa/remove", {"code": "000000"}),
    "another e-mail address": ("/account/notifications", {"email": "m@example.org"}),
    "a webhook": ("/account/notifications", {"webhook_url": "https://hooks.example.org/x"}),
    "a webhook's secret": ("/account/notifications/secret", {}),
    "a model on the hub": ("/experiments/first/iterations/1/publish", {"repository": "a/b"}),
}


@pytest.mark.parametrize("path, given", NEEDS_RECENT.values(), ids=NEEDS_RECENT)
def test_an_old_session_confirms_before_it_can_make_itself_last(
    path: str, given: dict[str, str], iteration: Iteration, client: Client, settings: Settings
) -> None:
    settings.META_REWARD_WEBHOOK_HOSTS = ["hooks.example.org"]
    settings.META_REWARD_HF_TOKEN = "hf_x"
    Iteration.objects.update(status="finished", model_out="c" * 64)
    age_session(client)
    answer = client.post(path, given)
    assert answer.status_code == 302
    assert answer["Location"].startswith("/account/confirm?next=%2F")
    hostile = {"HX-Request": "true", "HX-Current-URL": "https://evil.example/"}
    region = client.post(path, given, headers=hostile)
    assert "evil" not in str(region.headers)
    assert region.headers["HX-Redirect"].startswith("/account/confirm?next=%2F")
    assert not ApiToken.objects.exists()
    assert not TOTPDevice.objects.exists()
    assert not Job.objects.exists()
    assert User.objects.get(username="alice").email == ""
    assert client.get(answer["Location"]).status_code == 200
    assert client.post(answer["Location"], {"secret": "wrong"}).status_code == 422
    done = client.post("/account/confirm", {"secret": PASSWORD, "next": "/account/tokens"})
    assert done["Location"] == "/account/tokens"
    assert not client.post(path, given).get("Location", "").startswith("/account/confirm")


ADMIN_PAGES: Final = (
    *("auth/user/add/", "auth/user/{user}/change/", "auth/user/{user}/delete/"),
    *("auth/user/{user}/password/", "otp_totp/totpdevice/{device}/delete/"),
    "api/apitoken/{token}/delete/",
)
ADMIN_LISTS: Final = ("auth/user/", "otp_totp/totpdevice/", "api/apitoken/")


@pytest.mark.parametrize("path", [*ADMIN_PAGES, *ADMIN_LISTS])
def test_an_old_session_confirms_before_it_changes_accounts_in_the_admin(path: str) -> None:
    ada, bob = make_staff("ada", "admin"), make_person("bob", "viewer")
    device = TOTPDevice.objects.create(user=bob, name="app", confirmed=True)
    token = make_token(bob, name="t", expires=None)[0]
    client = sign_in(ada)
    page = f"/admin/{path.format(user=bob.pk, device=device.pk, token=token.pk)}"
    assert client.get(page).status_code == 200
    age_session(client)
    selected = {"action": "delete_selected", "_selected_action": "1", "post": "yes"}
    answer = client.post(page, selected if path in ADMIN_LISTS else {"post": "yes"})
    assert answer["Location"].startswith("/account/confirm?next=%2Fadmin%2F")
    shown = client.get(page)
    assert shown.status_code == (200 if path in ADMIN_LISTS else 302)
    assert User.objects.filter(pk=bob.pk).exists()
    assert TOTPDevice.objects.exists()
    assert ApiToken.objects.exists()


def test_publishing_to_the_hub_by_the_api_in_an_old_session_is_refused(
    iteration: Iteration, client: Client, settings: Settings
) -> None:
    settings.META_REWARD_HF_TOKEN = "hf_x"
    Iteration.objects.update(status="finished", model_out="c" * 64)
    age_session(client)
    path = "/api/v1/experiments/first/iterations/1/publish"
    answer = client.post(path, {"repository": "a/b"}, content_type="application/json")
    assert answer.status_code == 403
    assert "/account/confirm" in answer.json()["detail"]
    assert not Job.objects.exists()


def test_the_secret_of_an_app_is_not_shown_to_an_old_session(client: Client, alice: User) -> None:
    two_factor.start_setup(alice)
    assert "<code>" in client.get("/account/2fa").content.decode()
    age_session(client)
    assert client.get("/account/2fa")["Location"].startswith("/account/confirm")


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "javascript:1", ""])
def test_confirming_leads_to_this_site_alone(target: str, client: Client) -> None:
    answer = client.post("/account/confirm", {"secret": PASSWORD, "next": target})
    assert answer["Location"] == "/"


GUESSES: Final[dict[str, tuple[str, Callable[[str], dict[str, str]]]]] = {
    "confirming": ("/account/confirm", lambda secret: {"secret": secret}),
    "the old password": (
        "/account/password",
        lambda secret: {"old_password": secret, "new_password1": "x", "new_password2": "x"},
    ),
    "the first code": ("/account/2fa/confirm", lambda secret: {"code": secret}),
    "a code": ("/account/2fa/remove", lambda secret: {"code": secret}),
}


@pytest.mark.parametrize("first", GUESSES)
@pytest.mark.parametrize("then", GUESSES)
def test_wrong_secrets_of_every_kind_count_together(
    first: str, then: str, client: Client, alice: User
) -> None:
    """Five wrong ones in one place, and the right password no longer counts in another."""
    if "2fa/confirm" in GUESSES[first][0]:
        two_factor.start_setup(alice)
    path, make = GUESSES[first]
    for _ in range(5):
        client.post(path, make("000000"))
    path, make = GUESSES[then]
    page = client.post(path, make(PASSWORD)).content.decode()
    assert "Too many wrong passwords" in page
    answer = Client().post("/account/login", {"username": "alice", "password": PASSWORD})
    assert answer.status_code == 200
