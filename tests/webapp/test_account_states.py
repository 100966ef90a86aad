"""Any order of account operations: nobody gains a right, and no credential outlives a change."""

from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django_otp.plugins.otp_totp.models import TOTPDevice
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from webapp.accounts import roles, two_factor
from webapp.accounts.permissions import can_touch_account
from webapp.api.models import ApiToken, make_token

NAMES = ("root", "ada", "alice", "vera")
ROLES = (*roles.PERMISSIONS, "made up")
names, role_names = st.sampled_from(NAMES), st.sampled_from(ROLES)


class Accounts(RuleBasedStateMachine):
    """Four accounts, and a model of what each may do and which credentials count."""

    @initialize()
    def begin(self) -> None:
        ApiToken.objects.all().delete()
        TOTPDevice.objects.all().delete()
        User.objects.all().delete()
        Group.objects.get_or_create(name="made up")[0].permissions.set(Permission.objects.all())
        self.roles: dict[str, set[str]] = {name: set() for name in NAMES}
        self.active = dict.fromkeys(NAMES, True)
        self.tokens: dict[str, list[str]] = {name: [] for name in NAMES}
        self.dead: list[str] = []
        self.sessions: dict[str, list[Client]] = {name: [] for name in NAMES}
        self.ended: list[Client] = []
        User.objects.create_superuser("root", password="r")
        for name in NAMES[1:]:
            User.objects.create_user(name, password="p", is_staff=name == "ada")
        self._give("ada", "admin")

    def _user(self, name: str) -> User:
        return User.objects.get(username=name)

    def _end(self, name: str) -> None:
        """What the account's credentials of now are from here on."""
        self.dead += self.tokens[name]
        self.ended += self.sessions[name]
        self.tokens[name], self.sessions[name] = [], []

    def _give(self, name: str, role: str) -> None:
        self._user(name).groups.add(Group.objects.get(name=role))
        if role not in self.roles[name]:
            self.roles[name].add(role)
            self._end(name)

    @rule(name=names, role=role_names)
    def give_role(self, name: str, role: str) -> None:
        self._give(name, role)

    @rule(name=names, role=role_names)
    def take_role(self, name: str, role: str) -> None:
        if role in self.roles[name]:  # pages take only what an account has
            self._user(name).groups.remove(Group.objects.get(name=role))
            self.roles[name].remove(role)
            self._end(name)

    @rule(name=names, number=st.integers(0, 99))
    def reset_password(self, name: str, number: int) -> None:
        user = self._user(name)
        user.set_password(f"new {number}")
        user.save()
        self._end(name)

    @rule(name=names)
    def close_or_open(self, name: str) -> None:
        user = self._user(name)
        user.is_active = self.active[name] = not user.is_active
        user.save()
        self._end(name)

    @rule(name=names)
    def set_up_second_factor(self, name: str) -> None:
        user = self._user(name)
        two_factor.start_setup(user)
        if two_factor.finish_setup(user):
            self._end(name)

    @rule(name=names)
    def lose_second_factor(self, name: str) -> None:
        user = self._user(name)
        if two_factor.has_second_factor(user):
            two_factor.remove_devices(user)
            self._end(name)

    @rule(name=names)
    def make_token(self, name: str) -> None:
        self.tokens[name].append(make_token(self._user(name), name="t", expires=None)[1])

    @precondition(lambda self: any(self.active.values()))
    @rule(name=names)
    def sign_in(self, name: str) -> None:
        if self.active[name]:
            client = Client()
            client.force_login(self._user(name))
            self.sessions[name].append(client)

    @rule(role=role_names)
    def edit_the_rows_of_a_role(self, role: str) -> None:
        Group.objects.get(name=role).permissions.set(Permission.objects.all())

    @rule(name=names)
    def give_a_permission_by_itself(self, name: str) -> None:
        user = self._user(name)
        user.user_permissions.set(Permission.objects.filter(codename="delete_experiment"))

    @rule(actor=names, account=names)
    def take_away_anothers_device_in_the_admin(self, actor: str, account: str) -> None:
        device = TOTPDevice.objects.filter(user__username=account, confirmed=True).first()
        if device is None or not self.active[actor]:
            return
        client = Client()
        client.force_login(self._user(actor))
        before = [*self.sessions[actor]]
        client.post(f"/admin/otp_totp/totpdevice/{device.pk}/delete/", {"post": "yes"})
        is_gone = not TOTPDevice.objects.filter(pk=device.pk).exists()
        may = actor == "root" or ("admin" in self.roles[actor] and account != "root")
        assert is_gone == (may and self._user(actor).is_staff)
        assert self.sessions[actor] == before
        if is_gone:
            self._end(account)

    @rule(actor=names, account=names, roles=st.sets(role_names, max_size=3), flag=st.booleans())
    def save_anothers_account_in_the_admin(
        self, actor: str, account: str, roles: set[str], flag: bool
    ) -> None:
        """Ask for superuser and every permission, too: an admin gets none of these."""
        if not self.active[actor]:
            return
        user = self._user(account)
        given = {
            "username": account,
            "is_active": "on",
            **({"is_staff": "on"} if user.is_staff else {}),
            **({"is_superuser": "on"} if flag or account == "root" else {}),
            "groups": list(Group.objects.filter(name__in=roles).values_list("pk", flat=True)),
            "user_permissions": list(Permission.objects.values_list("pk", flat=True)[:5]),
            "date_joined_0": "2026-01-01",
            "date_joined_1": "00:00:00",
        }
        may = actor == "root" or ("admin" in self.roles[actor] and account != "root")
        if actor == "root" and flag and account != "root":
            return  # a superuser may make another one
        answer = self._sign_in_beside(actor).post(f"/admin/auth/user/{user.pk}/change/", given)
        is_saved = answer.status_code == 302 and answer["Location"] == "/admin/auth/user/"
        assert is_saved == (may and self._user(actor).is_staff)
        if is_saved:
            changed = roles != self.roles[account] or not self.active[account]
            self.roles[account], self.active[account] = set(roles), True
            if changed:
                self._end(account)

    @rule(actor=names, account=names)
    def set_anothers_password_in_the_admin(self, actor: str, account: str) -> None:
        if not self.active[actor]:
            return
        user, new = self._user(account), "Zwetschge-17-blau"
        path = f"/admin/auth/user/{user.pk}/password/"
        given = {"password1": new, "password2": new, "usable_password": "true"}
        self._sign_in_beside(actor).post(path, given)
        may = actor == "root" or ("admin" in self.roles[actor] and account != "root")
        is_set = self._user(account).password != user.password
        assert is_set == (may and self._user(actor).is_staff)
        if is_set:
            self._end(account)

    def _sign_in_beside(self, name: str) -> Client:
        """Sign in for one request, in a session that the model does not follow."""
        client = Client()
        client.force_login(self._user(name))
        return client

    @invariant()
    def rights_are_those_of_the_roles(self) -> None:
        for name, held in getattr(self, "roles", {}).items():
            user = self._user(name)
            if name == "root":
                continue
            allowed: set[str] = set()
            for role in held & roles.PERMISSIONS.keys():
                allowed |= set(roles.PERMISSIONS[role])
            views = {one for one in user.get_all_permissions() if ".view_" in one}
            rights = user.get_all_permissions()
            if not self.active[name]:
                assert rights == set()
            elif "admin" in held:
                assert rights - views <= allowed
            else:
                assert rights == allowed
            assert not user.has_perm("experiments.delete_experiment")
            assert not can_touch_account(user, self._user("root"))

    @invariant()
    def credentials_count_until_their_account_changes(self) -> None:
        for token in getattr(self, "dead", [])[-4:]:
            assert _call(token) == 401
        for name, tokens in getattr(self, "tokens", {}).items():
            for token in tokens[-1:]:
                assert (_call(token) != 401) == self.active[name]
        for client in getattr(self, "ended", [])[-3:]:
            assert client.get("/account/password").status_code == 302
        for name, clients in getattr(self, "sessions", {}).items():
            for client in clients[-1:]:
                assert (client.get("/account/password").status_code == 200) == self.active[name]


def _call(token: str) -> int:
    return Client(headers={"Authorization": f"Bearer {token}"}).get("/api/v1/jobs").status_code


def _run(**limits: Any) -> None:
    run_state_machine_as_test(
        Accounts,
        settings=settings(
            deadline=None, suppress_health_check=list(HealthCheck), database=None, **limits
        ),
    )


@pytest.mark.django_db
def test_no_order_of_account_operations_gains_a_right_or_keeps_a_credential() -> None:
    # The same orders each time, and as they are found: making them shorter takes minutes.
    _run(
        max_examples=6,
        stateful_step_count=20,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
    )


@pytest.mark.slow
@pytest.mark.django_db
def test_no_long_order_of_account_operations_gains_a_right_or_keeps_a_credential() -> None:
    _run(max_examples=25, stateful_step_count=40)
