"""Optional two-factor authentication: a code from an app, or a recovery code.

django-otp stores the secrets, checks the codes, rejects used codes and throttles guessing. This
module decides when a code is required and provides the setup page.
"""

import re
from typing import Final

from django.contrib.auth.models import User
from django.db import transaction
from django_otp import devices_for_user
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice

from webapp.accounts.credentials import raise_generation
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action

PAPER_CODES: Final = 8
_APP_CODE: Final = re.compile(r"\d{6}")


def has_second_factor(person: User) -> bool:
    """Whether a user must enter a code."""
    return bool(TOTPDevice.objects.filter(user=person, confirmed=True).exists())


def verify_code(person: User, code: str) -> bool:
    """Whether a code is valid; a valid one is used up."""
    written = re.sub(r"[\s-]", "", code).lower()
    wanted = TOTPDevice if _APP_CODE.fullmatch(written) else StaticDevice
    with transaction.atomic():
        found = devices_for_user(person, for_verify=True)
        return any(one.verify_token(written) for one in found if isinstance(one, wanted))


def get_unconfirmed_device(person: User) -> TOTPDevice | None:
    """Return the device that is being set up; None if there is none."""
    return TOTPDevice.objects.filter(user=person, confirmed=False).first()


def start_setup(person: User) -> None:
    """Generate a new secret, which becomes active after its first code."""
    with transaction.atomic():
        TOTPDevice.objects.filter(user=person, confirmed=False).delete()
        if not has_second_factor(person):
            TOTPDevice.objects.create(user=person, name="app", confirmed=False)


def is_setup_code(person: User, code: str) -> bool:
    """Whether a code of the device that is being set up is valid; a valid one is used up."""
    device = get_unconfirmed_device(person)
    return device is not None and bool(device.verify_token(code.strip()))


def finish_setup(person: User) -> list[str]:
    """Turn two-factor authentication on, and end other sessions and tokens.

    Returns:
        Recovery codes, shown only once; none if no app is being set up.
    """
    with transaction.atomic():
        device = get_unconfirmed_device(person)
        if device is None:
            return []
        device.confirmed = True
        device.save()
        StaticDevice.objects.filter(user=person).delete()
        paper = StaticDevice.objects.create(user=person, name="paper")
        codes = [StaticToken.random_token() for _ in range(PAPER_CODES)]
        log_event(Action.SECOND_FACTOR, person.get_username(), detail="set up")
        paper.token_set.bulk_create(StaticToken(device=paper, token=code) for code in codes)
        raise_generation(person)
    return codes


def remove_devices(person: User) -> None:
    """Turn two-factor authentication off."""
    with transaction.atomic():
        TOTPDevice.objects.filter(user=person).delete()
        StaticDevice.objects.filter(user=person).delete()
