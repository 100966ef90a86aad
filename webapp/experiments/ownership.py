"""Who owns an experiment, and whether others see it: this may change at any time."""

from typing import Any, cast

from django import forms
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from webapp.experiments.models import Experiment, Order, OrderKind, OrderStatus
from webapp.people.access import holders
from webapp.people.roles import RUN


class OwnershipForm(forms.Form):
    """Whose an experiment shall be, and who shall see it."""

    owner = forms.ModelChoiceField(
        label="Owner",
        queryset=User.objects.none(),
        to_field_name="username",
        required=False,
        empty_label="nobody",
        help_text="The owner steers it. What nobody owns every operator may steer.",
    )
    is_private = forms.BooleanField(
        label="Private",
        required=False,
        help_text="Its owner and admins alone see it, with everything that came of it.",
    )

    def __init__(self, data: Any = None, *, experiment: Experiment) -> None:
        super().__init__(data, initial=ownership_of(experiment), label_suffix="")
        owner = cast("forms.ModelChoiceField[User]", self.fields["owner"])
        owner.queryset = possible_owners(experiment)

    def clean(self) -> dict[str, Any]:
        """Refuse what nobody but admins could ever see."""
        given = self.cleaned_data
        if given.get("is_private") and "owner" in given and given["owner"] is None:
            self.add_error("is_private", "A private experiment needs an owner: choose one.")
        return given


def ownership_of(experiment: Experiment) -> dict[str, Any]:
    """Say whose an experiment is and whether it is private, as plain values."""
    owner = experiment.owner.get_username() if experiment.owner else None
    return {"owner": owner, "is_private": experiment.is_private}


def possible_owners(experiment: Experiment) -> QuerySet[User]:
    """Active accounts that may start experiments, and whoever owns this one."""
    return (
        (holders(RUN) | User.objects.filter(experiments=experiment)).distinct().order_by("username")
    )


def hand_over(
    experiment: Experiment, *, by: User, owner: User | None, is_private: bool
) -> Order | None:
    """Change whose an experiment is and who sees it; the log keeps what was before.

    Returns:
        The log's entry; None if nothing changes.
    """
    with transaction.atomic():
        row = Experiment.objects.select_for_update().get(pk=experiment.pk)
        before = ownership_of(row)
        row.owner, row.is_private = owner, is_private
        if ownership_of(row) == before:
            return None
        row.save(update_fields=["owner", "is_private"])
        return Order.objects.create(
            kind=OrderKind.HAND_OVER,
            by=by,
            experiment=row,
            subject=row.name,
            wish=ownership_of(row),
            outcome={"before": before},
            status=OrderStatus.DONE,
            finished=timezone.now(),
        )
