"""Owner and visibility of an experiment, which can change at any time."""

from typing import Any, cast

from django import forms
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from webapp.accounts.permissions import get_users_with_permission
from webapp.accounts.roles import RUN
from webapp.experiments.jobs import record_job
from webapp.experiments.models import Experiment, Job, JobKind, JobStatus


class OwnershipForm(forms.Form):
    """New owner and visibility of an experiment."""

    owner = forms.ModelChoiceField(
        label="Owner",
        queryset=User.objects.none(),
        to_field_name="username",
        required=False,
        empty_label="nobody",
        help_text="The owner controls the experiment. Without an owner, any operator can.",
    )
    is_private = forms.BooleanField(
        label="Private",
        required=False,
        help_text="Only the owner and admins can see the experiment and its results.",
    )

    def __init__(self, data: Any = None, *, experiment: Experiment) -> None:
        super().__init__(data, initial=get_ownership(experiment), label_suffix="")
        owner = cast("forms.ModelChoiceField[User]", self.fields["owner"])
        owner.queryset = get_possible_owners(experiment)

    def clean(self) -> dict[str, Any]:
        """Refuse a private experiment without an owner."""
        given = self.cleaned_data
        if given.get("is_private") and "owner" in given and given["owner"] is None:
            self.add_error("is_private", "Choose an owner: a private experiment must have one.")
        return given


def get_ownership(experiment: Experiment) -> dict[str, Any]:
    """Return owner and visibility of an experiment as plain values."""
    owner = experiment.owner.get_username() if experiment.owner else None
    return {"owner": owner, "is_private": experiment.is_private}


def get_possible_owners(experiment: Experiment) -> QuerySet[User]:
    """Return the active accounts that can start experiments, and the current owner."""
    return (
        (get_users_with_permission(RUN) | User.objects.filter(experiments=experiment))
        .distinct()
        .order_by("username")
    )


def transfer_ownership(
    experiment: Experiment, *, by: User, owner: User | None, is_private: bool
) -> Job | None:
    """Change the owner and visibility of an experiment; the activity log keeps the old values.

    Returns:
        The log's entry; None if nothing changes.
    """
    with transaction.atomic():
        row = Experiment.objects.select_for_update().get(pk=experiment.pk)
        before = get_ownership(row)
        row.owner, row.is_private = owner, is_private
        if get_ownership(row) == before:
            return None
        row.save(update_fields=["owner", "is_private"])
        job = Job.objects.create(
            kind=JobKind.HAND_OVER,
            created_by=by,
            experiment=row,
            experiment_uuid=row.uuid,
            experiment_name=row.name,
            payload=get_ownership(row),
            outcome={"before": before},
            status=JobStatus.DONE,
            finished=timezone.now(),
        )
        record_job(job, before=before, after=job.payload)
        return job
