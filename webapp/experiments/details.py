"""Description, notes, tags and archive status of experiments.

Every change is recorded in the activity log.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from django import forms
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from webapp.activity.models import Action, ObjectType
from webapp.activity.recording import record_activity
from webapp.experiments.models import Experiment, ExperimentTag, RunStatus

MAX_TAGS: Final = 20
_TAG: Final = re.compile(r"\w[\w .:/+-]{0,31}", re.ASCII)


def parse_tags(text: str | Iterable[str]) -> list[str]:
    """Parse tags from a comma-separated text or a list.

    Raises:
        ValueError: a tag is not allowed, or there are too many.
    """
    given = text.split(",") if isinstance(text, str) else list(text)
    tags = sorted({tag.strip() for tag in given} - {""})
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise ValueError(
                f"Tag {tag[:40]!r} is not allowed: use up to 32 letters, digits, spaces and "
                "_ . : / + - after a letter or digit."
            )
    if len(tags) > MAX_TAGS:
        raise ValueError(f"Use up to {MAX_TAGS} tags.")
    return tags


class DetailsForm(forms.Form):
    """Description, tags and notes of an experiment."""

    description = forms.CharField(
        required=False,
        max_length=200,
        label="Description",
        help_text="One line, shown in the run table.",
    )
    tags = forms.CharField(
        required=False,
        max_length=700,
        label="Tags",
        help_text="Separated by commas. The run table can be filtered by tag.",
    )
    notes = forms.CharField(
        required=False,
        max_length=20_000,
        label="Notes",
        widget=forms.Textarea(attrs={"rows": 5}),
    )

    def __init__(self, data: Any = None, *, experiment: Experiment) -> None:
        values = get_details(experiment)
        values["tags"] = ", ".join(values["tags"])
        super().__init__(data, initial=values, label_suffix="")

    def clean_tags(self) -> list[str]:
        """Split tags."""
        try:
            return parse_tags(self.cleaned_data["tags"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


def get_details(experiment: Experiment) -> dict[str, Any]:
    """Return description, notes and tags of an experiment as plain values."""
    return {
        "description": experiment.description,
        "notes": experiment.notes,
        "tags": [tag.name for tag in experiment.tags.all()],
    }


def change_details(experiment: Experiment, values: Mapping[str, Any], *, by: User) -> bool:
    """Change the given details; omitted ones keep their values.

    Returns:
        Whether anything changes.
    """
    with transaction.atomic():
        row = Experiment.objects.select_for_update().get(pk=experiment.pk)
        before = get_details(row)
        after = before | dict(values)
        if after == before:
            return False
        row.description, row.notes = after["description"], after["notes"]
        row.save()
        if after["tags"] != before["tags"]:
            row.tags.all().delete()
            ExperimentTag.objects.bulk_create(
                ExperimentTag(experiment=row, name=name) for name in after["tags"]
            )
        changed = [name for name in after if after[name] != before[name]]
        return _record(
            Action.TAGGED,
            row,
            by=by,
            before={name: before[name] for name in changed},
            after={name: after[name] for name in changed},
        )


class StillRunningError(ValueError):
    """A running experiment cannot be archived or deleted."""


def archive_experiment(experiment: Experiment, *, by: User) -> bool:
    """Hide an experiment from the run table; its files and pages stay.

    Returns:
        Whether it was not archived before.

    Raises:
        StillRunningError: it is running, or its next iteration is about to start.
    """
    with transaction.atomic():
        row = Experiment.objects.select_for_update().get(pk=experiment.pk)
        if is_busy(row):
            raise StillRunningError(f"{row} is running. Pause or stop it first.")
        if row.archived is not None:
            return False
        row.archived = timezone.now()
        row.save()
        return _record(Action.ARCHIVED, row, by=by)


def restore_experiment(experiment: Experiment, *, by: User) -> bool:
    """Restore an archived experiment; False if it was not archived."""
    with transaction.atomic():
        row = Experiment.objects.select_for_update().get(pk=experiment.pk)
        if row.archived is None:
            return False
        row.archived = None
        row.save()
        return _record(Action.UNARCHIVED, row, by=by)


def is_busy(experiment: Experiment) -> bool:
    """Whether an iteration runs."""
    return experiment.iterations.filter(status=RunStatus.RUNNING).exists()


def _record(
    action: Action,
    row: Experiment,
    *,
    by: User,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> bool:
    record_activity(
        action,
        object_type=ObjectType.EXPERIMENT,
        object_id=row.pk,
        experiment=row,
        by=by,
        before=before,
        after=after,
    )
    return True
