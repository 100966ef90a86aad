"""Forms of the audit."""

from typing import Any, Final, cast

from django import forms
from django.contrib.auth.models import User

from meta_reward_core.errors import InputError
from meta_reward_core.review.stratified_sampling import STRATEGIES, STRATEGIES_BY_KIND
from webapp.audit.adjudication import (
    DECISION_REQUIRED,
    MAX_REASON_CHARS,
    MIN_REASON_CHARS,
    REASON_REQUIRED,
    Decision,
)
from webapp.audit.annotation_queue import TAGS, AnswerInput, get_possible_auditors
from webapp.audit.batch_sampling import BatchPlan, KnownAnswer, format_strategy
from webapp.audit.gate import (
    find_override,
    format_percent,
    get_gate_terms,
    has_battles,
    has_pairs,
    hash_battles,
)
from webapp.audit.known_items import MAX_KNOWN_ITEMS, read_known_answers
from webapp.audit.models import (
    MIN_ACCURACY,
    Confidence,
    Gate,
    Item,
    ItemKind,
    OverrideOutcome,
)
from webapp.experiments.models import Experiment, RunStatus

_MAX_ITEMS: Final = 5000
_MAX_ROW_ERRORS: Final = 20


JUDGMENT_CHOICES: Final = (
    ("A", "A is better"),
    ("B", "B is better"),
    ("tie", "Tie"),
    ("neither", "Neither is acceptable"),
)
"""Choices for two judgments, by displayed letter."""

SCORE_CHOICES: Final = [(f"{halves / 2:g}", f"{halves / 2:g}") for halves in range(11)]
"""Scores of a response in steps of half a point; the rubric allows decimals."""


class AnswerForm(forms.Form):
    """Fields of every answer; subclasses add the question."""

    confidence = forms.TypedChoiceField(
        choices=Confidence.choices,
        coerce=int,
        widget=forms.RadioSelect,
        label="How sure are you?",
        error_messages={"required": "Choose how sure you are."},
    )
    tags = forms.MultipleChoiceField(
        choices=[(tag, tag) for tag in TAGS],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        label="Problems, if any",
    )
    comment = forms.CharField(
        required=False, max_length=4000, widget=forms.Textarea(attrs={"rows": 2})
    )
    seconds = forms.FloatField(required=False, widget=forms.HiddenInput)

    def make_answer(self, item: Item) -> AnswerInput:
        """Build the answer with the item's own names of its judgments."""
        values = self.cleaned_data
        choice = values.get("choice", "")
        return AnswerInput(
            choice=to_item_choice(choice, item),
            points=values.get("points"),
            confidence=values["confidence"],
            tags=tuple(values["tags"]),
            comment=values["comment"],
            seconds=values["seconds"] or 0.0,
        )


class ChoiceForm(AnswerForm):
    """Which of two judgments is better, by displayed letter."""

    choice = forms.ChoiceField(
        choices=JUDGMENT_CHOICES,
        widget=forms.RadioSelect,
        label="Which judgment is better?",
        error_messages={"required": "Choose an answer."},
    )
    field_order = ("choice", "confidence", "tags", "comment", "seconds")


class ScoreForm(AnswerForm):
    """How good a response is."""

    points = forms.TypedChoiceField(
        choices=SCORE_CHOICES,
        coerce=float,
        widget=forms.RadioSelect,
        label="How good is this response, from 0 to 5?",
        error_messages={"required": "Choose a score."},
    )
    field_order = ("points", "confidence", "tags", "comment", "seconds")


def make_answer_form(
    kind: str, data: Any = None, *, initial: dict[str, Any] | None = None
) -> AnswerForm:
    """Build the form for a kind of item."""
    return (ChoiceForm if kind == ItemKind.JUDGMENTS else ScoreForm)(data, initial=initial)


def to_item_choice(letter: str, item: Item) -> str:
    """Convert a displayed letter to the item's own name of a judgment."""
    a, b = ("second", "first") if item.is_swapped else ("first", "second")
    return {"A": a, "B": b}.get(letter, letter)


def to_shown_letter(choice: str, item: Item) -> str:
    """Convert the item's own name of a judgment to the displayed letter."""
    a, b = ("second", "first") if item.is_swapped else ("first", "second")
    return {a: "A", b: "B"}.get(choice, choice)


class AdjudicationForm(forms.Form):
    """Fields of every decision; subclasses add the decision."""

    reason = forms.CharField(
        min_length=MIN_REASON_CHARS,
        max_length=MAX_REASON_CHARS,
        widget=forms.Textarea(attrs={"rows": 2}),
        label="Reason",
        error_messages={"required": REASON_REQUIRED, "min_length": REASON_REQUIRED},
    )
    version = forms.IntegerField(min_value=0, max_value=2**31 - 1, widget=forms.HiddenInput)

    def make_decision(self, item: Item) -> Decision:
        """Build the decision with the item's own names of its judgments."""
        values = self.cleaned_data
        choice = values.get("choice")
        given = to_item_choice(choice, item) if choice else values["points"]
        return Decision(given, values["reason"], values["version"])


class PairDecisionForm(AdjudicationForm):
    """Which of two judgments is better, by displayed letter."""

    choice = forms.ChoiceField(
        choices=JUDGMENT_CHOICES,
        widget=forms.RadioSelect,
        label="Which judgment is better?",
        error_messages={"required": DECISION_REQUIRED},
    )
    field_order = ("choice", "reason", "version")


class ScoreDecisionForm(AdjudicationForm):
    """How good a response is."""

    points = forms.ChoiceField(
        choices=SCORE_CHOICES,
        widget=forms.RadioSelect,
        label="How good is this response, from 0 to 5?",
        error_messages={"required": DECISION_REQUIRED},
    )
    field_order = ("points", "reason", "version")


def make_adjudication_form(
    kind: str, data: Any = None, *, initial: dict[str, Any] | None = None
) -> AdjudicationForm:
    """Build the form for a decision on a kind of item."""
    form = PairDecisionForm if kind == ItemKind.JUDGMENTS else ScoreDecisionForm
    return form(data, initial=initial)


class PlainForm(forms.Form):
    """A form whose labels end without a colon."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""


class IntervalForm(PlainForm):
    """The interval for which the form of a new batch computes a number of items."""

    points = forms.FloatField(
        required=False,
        min_value=1,
        max_value=40,
        label="Half-width (percentage points)",
        widget=forms.NumberInput(attrs={"step": "any", "size": 6}),
    )

    @property
    def half_width(self) -> float | None:
        """The half-width as a share; None if none was entered."""
        points = self.cleaned_data.get("points") if self.is_bound and self.is_valid() else None
        return None if points is None else points / 100


class BatchForm(PlainForm):
    """Settings of a new batch."""

    iteration = forms.TypedChoiceField(coerce=int, label="Iteration")
    kind = forms.ChoiceField(choices=ItemKind.choices, label="Question")
    strategy = forms.ChoiceField(
        choices=[(name, format_strategy(name)) for name in STRATEGIES],
        initial="certainty",
        label="Sampling strategy",
        help_text="The strategies are explained at the end of this page. Sampling probabilities "
        "are known, so estimates apply to the whole iteration.",
    )
    size = forms.IntegerField(
        min_value=2, max_value=_MAX_ITEMS, initial=100, label="Distinct items"
    )
    same_share = forms.IntegerField(
        min_value=0, max_value=50, initial=10, label="Repeats for the same auditor (%)"
    )
    other_share = forms.IntegerField(
        min_value=0, max_value=100, initial=20, label="Repeats for another auditor (%)"
    )
    seed = forms.IntegerField(min_value=0, max_value=2**53, initial=1)
    hides_score_lines = forms.BooleanField(
        required=False, initial=True, label="Hide score lines in judgments"
    )
    reveals_at_once = forms.BooleanField(
        required=False,
        initial=True,
        label="Reveal after each answer",
        help_text="If not selected, answers are revealed when the batch is closed.",
    )
    guidelines = forms.CharField(
        required=False,
        max_length=20_000,
        widget=forms.Textarea(attrs={"rows": 6}),
        label="Guidelines for annotators",
        help_text="Markdown. Shown next to every item.",
    )
    auditors = forms.ModelMultipleChoiceField(
        queryset=User.objects.none(),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Repeats for another auditor are omitted if only one auditor is assigned.",
    )
    adjudicated_items = forms.IntegerField(
        min_value=0,
        max_value=MAX_KNOWN_ITEMS,
        initial=0,
        label="Adjudicated items to answer first",
        help_text="Each auditor first answers this many of the experiment's adjudicated items, "
        "latest first. They measure the auditors and are excluded from all estimates.",
    )
    known_file = forms.FileField(
        required=False,
        label="File of items with known answers",
        help_text="CSV, JSON or JSON Lines. Columns for judgments: instruction, response, first, "
        "second (the two judgments) and answer (first, second, tie or neither). Columns for "
        "responses: instruction, response and points. The CSV export of a batch has these "
        "columns.",
    )
    min_accuracy = forms.IntegerField(
        min_value=0,
        max_value=100,
        initial=round(100 * MIN_ACCURACY),
        label="Minimum accuracy of an auditor (%)",
        help_text="Auditors are flagged if the 95% confidence interval of their accuracy is below "
        "this value. Results are then also shown without their answers.",
    )
    shows_quality = forms.BooleanField(
        required=False,
        label="Show auditors their own accuracy",
        help_text="Computed from final answers: those already revealed, or all answers once the "
        "batch is closed.",
    )

    def __init__(self, *args: Any, numbers: list[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known: list[KnownAnswer] = []
        iteration = cast("forms.TypedChoiceField", self.fields["iteration"])
        iteration.choices = [(number, str(number)) for number in numbers]
        auditors = cast("forms.ModelMultipleChoiceField[User]", self.fields["auditors"])
        auditors.queryset = get_possible_auditors()

    def clean(self) -> dict[str, Any]:
        """Refuse a strategy that does not apply to the kind, and read the file of known answers."""
        values = super().clean() or {}
        kind, strategy = values.get("kind"), values.get("strategy")
        known = {str(name): strategies for name, strategies in STRATEGIES_BY_KIND.items()}
        if kind and strategy and strategy not in known[kind]:
            self.add_error("strategy", "This strategy does not apply to this question.")
        if kind and values.get("known_file"):
            self._read_known_file(values["known_file"], kind)
        return values

    def _read_known_file(self, file: Any, kind: str) -> None:
        try:
            self._known, left_out = read_known_answers(file.name, file.read(), kind)
        except InputError as error:
            self.add_error("known_file", str(error))
            return
        for one in left_out[:_MAX_ROW_ERRORS]:
            self.add_error("known_file", f"{one.where}: {one.reason}")
        if len(left_out) > _MAX_ROW_ERRORS:
            more = len(left_out) - _MAX_ROW_ERRORS
            self.add_error("known_file", f"{more:,} more rows cannot be used.")

    def plan(self) -> BatchPlan:
        """Build the plan of the batch."""
        values = self.cleaned_data
        return BatchPlan(
            kind=values["kind"],
            strategy=values["strategy"],
            size=values["size"],
            seed=values["seed"],
            same_share=values["same_share"] / 100,
            other_share=values["other_share"] / 100,
            hides_score_lines=values["hides_score_lines"],
            reveals_at_once=values["reveals_at_once"],
            guidelines=values["guidelines"],
            min_accuracy=values["min_accuracy"] / 100,
            shows_quality=values["shows_quality"],
            adjudicated_items=values["adjudicated_items"],
            known_answers=tuple(self._known),
        )


class AuditorsForm(PlainForm):
    """Auditors of a batch."""

    auditors = forms.ModelMultipleChoiceField(
        queryset=User.objects.none(),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        error_messages={
            "invalid_choice": "Only active accounts with the role auditor can be chosen."
        },
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        auditors = cast("forms.ModelMultipleChoiceField[User]", self.fields["auditors"])
        auditors.queryset = get_possible_auditors()


class PercentField(forms.FloatField):
    """A share that is entered in percent."""

    def clean(self, value: Any) -> Any:
        """Return the share."""
        percent = super().clean(value)
        return None if percent is None else round(percent / 100, 12)


class GateForm(forms.ModelForm):  # type: ignore[type-arg]
    """Audit results required before an experiment trains on judge pairs."""

    min_agreement = PercentField(
        label="Minimum agreement (%)", help_text="At least 0 and below 100."
    )
    confidence = PercentField(label="Confidence level (%)", help_text="Above 0 and below 100.")
    reason = forms.CharField(
        required=False,
        max_length=MAX_REASON_CHARS,
        label="Reason",
        help_text="Required when the gate is loosened. Shown in the gate history.",
    )

    class Meta:
        """Build the gate, without its experiment."""

        model = Gate
        fields = ("min_agreement", "confidence", "min_answers", "on_failure")
        labels = {  # noqa: RUF012
            "min_answers": "Minimum number of answers",
            "on_failure": "If a complete audit does not pass",
        }

    def __init__(self, data: Any = None, *, instance: Gate, **kwargs: Any) -> None:
        percents = {
            name: format_percent(getattr(instance, name))
            for name in ("min_agreement", "confidence")
        }
        super().__init__(data, instance=instance, initial=percents, **kwargs)
        self.label_suffix = ""
        self.before = get_gate_terms(self.instance) if self.instance.pk else None
        if self.before is None:
            del self.fields["reason"]

    def clean_min_agreement(self) -> float:
        """Require a share."""
        return _check_share(self.cleaned_data["min_agreement"])

    def clean_confidence(self) -> float:
        """Require a share above 0."""
        share = _check_share(self.cleaned_data["confidence"])
        if share == 0:
            raise forms.ValidationError("Must be above 0% and below 100%.")
        return share


class RemovalForm(PlainForm):
    """Reason for removing the gate."""

    reason = forms.CharField(
        min_length=MIN_REASON_CHARS,
        max_length=MAX_REASON_CHARS,
        label="Reason for removing the gate",
    )


def _check_share(value: float) -> float:
    if not 0 <= value < 1:
        raise forms.ValidationError("Must be at least 0% and below 100%.")
    return value


class OverrideForm(PlainForm):
    """Override the gate of an iteration whose audit has not passed."""

    iteration = forms.TypedChoiceField(coerce=int)
    outcome = forms.ChoiceField(
        choices=[
            (OverrideOutcome.ACTOR_PAIRS, "the actor pairs only, without the judge pairs"),
            (OverrideOutcome.ALL, "all pairs, although no audit of the judge pairs has passed"),
        ],
        widget=forms.RadioSelect,
        label="Train on",
    )
    reason = forms.CharField(
        min_length=MIN_REASON_CHARS,
        max_length=MAX_REASON_CHARS,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Shown on this page and in the activity log.",
    )

    def __init__(self, *args: Any, experiment: Experiment, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._undecided = {
            iteration.number: iteration
            for iteration in experiment.iterations.exclude(status=RunStatus.FINISHED)
            if has_battles(iteration) and find_override(iteration) is None
        }
        field = cast("forms.TypedChoiceField", self.fields["iteration"])
        field.choices = [(number, str(number)) for number in sorted(self._undecided)]
        if len(self._undecided) == 1:
            field.widget = forms.HiddenInput()
            field.initial = next(iter(self._undecided))

    @property
    def has_iterations(self) -> bool:
        """Whether there is an iteration to override."""
        return bool(self._undecided)

    @property
    def only_iteration(self) -> int | None:
        """The iteration to override if there is exactly one."""
        return next(iter(self._undecided)) if len(self._undecided) == 1 else None

    @property
    def battles(self) -> str:
        """Hash of the battles of the chosen iteration."""
        return hash_battles(self._undecided[self.cleaned_data["iteration"]])

    def clean(self) -> dict[str, Any]:
        """Refuse to train on the actor pairs of an iteration without any."""
        values = super().clean() or {}
        iteration = self._undecided.get(values.get("iteration", 0))
        alone = values.get("outcome") == OverrideOutcome.ACTOR_PAIRS
        if iteration is not None and alone and not has_pairs(iteration, "actor"):
            self.add_error("outcome", "This iteration has no actor pairs.")
        return values


class ImportForm(PlainForm):
    """A file of answers."""

    file = forms.FileField(
        help_text="CSV or JSON Lines file exported from this site, or a file from Label Studio, "
        "Argilla or MLflow. Unreadable entries are listed with a reason; all others are imported."
    )
