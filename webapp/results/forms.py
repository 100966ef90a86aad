"""Forms of the result pages."""

from collections.abc import Iterable
from typing import Any, Final

from django import forms

from meta_reward_core.method.pairing import ACTOR_REASONS, REASON_TEXT, DropReason
from meta_reward_core.method.what_if import PairRules
from meta_reward_core.recipes.schema import Recipe

SORTS: Final = {
    "": "order of sampling",
    "gap": "score gap, largest first",
    "variance": "variance, largest first",
    "mean": "mean score, highest first",
    "length": "length, longest first",
    "-gap": "score gap, smallest first",
    "-variance": "variance, smallest first",
    "-mean": "mean score, lowest first",
    "-length": "length, shortest first",
}
_JUDGE_REASONS: Final = tuple(
    reason
    for reason in DropReason
    if reason == DropReason.NO_SCORED_RESPONSE or reason not in ACTOR_REASONS
)


def _list_outcomes(reasons: Iterable[DropReason]) -> list[tuple[str, str]]:
    said = [(str(reason), REASON_TEXT[reason].rstrip(".")) for reason in reasons]
    return [("", "any"), ("pair", "has a pair"), ("dropped", "has none"), *said]


def _make_minimum_field(label: str) -> forms.FloatField:
    """Build a field for a metric's minimum; if empty, prompts without the metric are included."""
    number = forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"})
    return forms.FloatField(label=label, required=False, min_value=0, widget=number)


class ListForm(forms.Form):
    """Filter and order of the prompt list."""

    q = forms.CharField(label="Text", required=False, max_length=500, strip=False)
    sort = forms.ChoiceField(label="Order", required=False, choices=list(SORTS.items()))
    actor = forms.ChoiceField(
        label="Actor pair", required=False, choices=_list_outcomes(ACTOR_REASONS)
    )
    judge = forms.ChoiceField(
        label="Judge pair", required=False, choices=_list_outcomes(_JUDGE_REASONS)
    )
    gap_at_least = _make_minimum_field("Score gap at least")
    variance_at_least = _make_minimum_field("Variance at least")
    unscored = forms.BooleanField(label="With unscored judgments", required=False)
    inconsistent = forms.BooleanField(
        label="With verdicts that change with the order", required=False
    )


class RulesForm(forms.Form):
    """Other values of the pairing rules."""

    rho = forms.FloatField(
        label="Tier width (rho)",
        min_value=0,
        max_value=1,
        help_text="Pairs are selected by length within the top and bottom tiers; 0: best score "
        "against worst.",
        widget=forms.NumberInput(attrs={"step": "0.01", "data-slider": ""}),
    )
    max_chosen_chars = forms.IntegerField(
        label="Maximum response length",
        required=False,
        min_value=1,
        help_text="Of the chosen response, in characters.",
        widget=forms.NumberInput(attrs={"placeholder": "no limit"}),
    )
    max_chosen_judgment_chars = forms.IntegerField(
        label="Maximum judgment length",
        required=False,
        min_value=1,
        help_text="Of the chosen judgment, in characters.",
        widget=forms.NumberInput(attrs={"placeholder": "no limit"}),
    )

    def __init__(self, *args: Any, recipe: Recipe, actual: PairRules, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["min_valid_judgments"] = forms.IntegerField(
            label="Minimum scored judgments",
            min_value=1,
            max_value=recipe.judge.samples,
            help_text="Responses with fewer get no score.",
            widget=forms.NumberInput(attrs={"data-slider": ""}),
        )
        for name, field in self.fields.items():
            value = getattr(actual, name)
            shown = "no limit" if value is None else f"{value:,}"
            field.help_text = f"Recipe: {shown}. {field.help_text}"

    def make_rules(self) -> PairRules:
        """Return the requested rules of a valid form."""
        return PairRules(**self.cleaned_data)
