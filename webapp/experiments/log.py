"""The log: who asked for what when, and what became of it."""

from dataclasses import dataclass
from typing import Final

from django import forms
from django.contrib.auth.models import User
from django.db.models import Q, QuerySet

from webapp.experiments.models import Order, OrderKind
from webapp.people.access import Person, visible_experiments
from webapp.people.roles import RUN_ALL

ENTRIES_ON_A_PAGE: Final = 50


class LogForm(forms.Form):
    """What of the log is shown; empty fields show all."""

    person = forms.CharField(required=False, max_length=150, label="Person")
    experiment = forms.CharField(required=False, max_length=64, label="Experiment")
    kind = forms.ChoiceField(
        required=False, choices=[("", "everything"), *OrderKind.choices], label="Asked for"
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log.

    Attributes:
        iteration: its number, where the order was about one.
    """

    row: Order
    iteration: int | None


def visible_orders(person: Person) -> QuerySet[Order]:
    """Orders about experiments that a person may see, and their own; admins see all."""
    if isinstance(person, User) and person.has_perm(RUN_ALL):
        return Order.objects.all()
    own = Q(experiment=None, by=person.pk)
    return Order.objects.filter(Q(experiment__in=visible_experiments(person)) | own)


def filter_orders(
    orders: QuerySet[Order], *, person: str, experiment: str, kind: str
) -> QuerySet[Order]:
    """Keep those of a person, about an experiment and of a kind, where these are given."""
    if person:
        orders = orders.filter(by__username__icontains=person)
    if experiment:
        orders = orders.filter(subject__icontains=experiment)
    if kind:
        orders = orders.filter(kind=kind)
    return orders.select_related("by", "experiment")


def entry_of(order: Order) -> Entry:
    """Lay out an order as a line."""
    number = order.outcome.get("iteration")
    return Entry(order, number if isinstance(number, int) else None)
