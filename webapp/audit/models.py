"""Database models of audits: batches, items, hidden verdicts and answers.

The outputs of the judge and the meta-judge for an item are in a separate row (`HiddenVerdict`),
which code that shows an unanswered item never reads. Answers are kept when their auditor's account
is deleted; every change of an answer, a gate or a batch is recorded as a separate, immutable row.
"""

from typing import ClassVar, Final

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from webapp.experiments.models import Experiment

HAND_PICKED: Final = "hand_picked"
"""Strategy of a batch whose items a user chose: it is not a sample, so nothing is extrapolated."""
MIN_ACCURACY: Final = 0.7
"""Default of `Batch.min_accuracy`: auditors whose 95% interval is below it are flagged."""


class ItemKind(models.TextChoices):
    """Question of an item."""

    JUDGMENTS = "judgments", "which of two judgments is better"
    RESPONSES = "responses", "how good is this response"


class BatchStatus(models.TextChoices):
    """Status of a batch; a closed batch accepts no answers."""

    OPEN = "open", "open"
    CLOSED = "closed", "closed"


class RepeatKind(models.TextChoices):
    """Why an item that was not sampled itself is in a batch."""

    NO = "", "first time"
    SAME = "same", "repeat for the same auditor"
    OTHER = "other", "repeat for another auditor"
    KNOWN = "known", "item with a known answer"


class PreferenceLabel(models.TextChoices):
    """Which judgment is better. First and second refer to the stored order, not the display."""

    FIRST = "first", "the first"
    SECOND = "second", "the second"
    TIE = "tie", "tie"
    NEITHER = "neither", "neither is acceptable"


class Confidence(models.IntegerChoices):
    """Confidence of an auditor."""

    LOW = 1, "guess"
    MEDIUM = 2, "fairly sure"
    HIGH = 3, "certain"


class Batch(models.Model):
    """Items sampled from finished stages of one iteration.

    Attributes:
        experiment: None after its deletion; `experiment_name` keeps its name.
        strata: name, population and number of sampled items of each stratum.
        source_sha256: hash of the files that the items were sampled from.
        hides_score_lines: whether the judgments are shown without their score lines.
        reveals_at_once: whether each answer is revealed at once, not when the batch is closed.
        same_share, other_share: shares of items repeated for the same or another auditor.
        min_accuracy: an auditor whose accuracy is shown to be below this is flagged.
        shows_quality: whether auditors see their own accuracy.
    """

    experiment = models.ForeignKey(
        Experiment, on_delete=models.SET_NULL, null=True, blank=True, related_name="audits"
    )
    experiment_name = models.CharField(max_length=64)
    iteration = models.PositiveIntegerField()
    kind = models.CharField(max_length=16, choices=ItemKind)
    strategy = models.CharField(max_length=16)
    seed = models.BigIntegerField()
    strata = models.JSONField()
    source_sha256 = models.CharField(max_length=64)
    hides_score_lines = models.BooleanField()
    reveals_at_once = models.BooleanField()
    same_share = models.FloatField()
    other_share = models.FloatField()
    min_accuracy = models.FloatField(default=MIN_ACCURACY)
    shows_quality = models.BooleanField(default=False)
    guidelines = models.TextField(blank=True, default="")
    rubric = models.TextField(blank=True, default="")
    status = models.CharField(max_length=8, choices=BatchStatus, default=BatchStatus.OPEN)
    auditors = models.ManyToManyField(
        settings.AUTH_USER_MODEL, blank=True, related_name="audit_batches"
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="created_audits",
    )
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-created", "-pk"]
        verbose_name_plural = "batches"
        permissions: ClassVar = [
            ("answer_batch", "Can answer items of the batches they are assigned to"),
            ("adjudicate_item", "Can decide between conflicting answers"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(status__in=BatchStatus.values), name="batch_status_is_known"
            ),
        ]

    def __str__(self) -> str:
        return f"batch {self.pk}: {self.experiment_name}, iteration {self.iteration}"

    @property
    def is_hand_picked(self) -> bool:
        """Whether users picked the items, so that results do not apply to other items."""
        return self.strategy == HAND_PICKED


class KnownItem(models.Model):
    """An item with a known answer, which every auditor of a batch answers before all others.

    Attributes:
        number: its position among the known items of the batch, from 1.
        answer: first, second, tie or neither; for a response, its score from 0 to 5, as text.
        source: the adjudicated item that it is a copy of; None if it comes from a file.
        facts: outputs of judge and meta-judge for the source item; empty if it comes from a file.
    """

    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="known_items")
    number = models.PositiveIntegerField()
    instruction = models.TextField()
    response = models.TextField()
    first = models.TextField(blank=True, default="")
    second = models.TextField(blank=True, default="")
    answer = models.CharField(max_length=16)
    source = models.ForeignKey(
        "Item", on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    facts = models.JSONField(default=dict, blank=True)

    class Meta:
        """Ordered by number."""

        ordering: ClassVar = ["batch", "number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["batch", "number"], name="known_item_number_is_unique"),
        ]

    def __str__(self) -> str:
        return f"known item {self.number} of batch {self.batch_id}"


class Item(models.Model):
    """An item to review; a repeat is a separate item with the same texts.

    Attributes:
        number: its position in the batch, from 1.
        key: identifies it in its iteration.
        stratum, probability: the stratum it was sampled from, and its inclusion probability.
        first, second: texts of the judgments; empty for a response.
        is_swapped: whether the second judgment is shown as A.
        original: the item that a repeat repeats.
        known, reserved_for: the known item of which it is a copy, and the auditor who answers it.
        holder, lease_until: the auditor who is answering it, and the end of the lease by the
            database clock.
        seconds: total display time so far.
        draft: unsaved input of its holder.
        is_answered: whether it has an answer; only the process that sets this writes the answer.
        adjudicated: the decision between conflicting answers; empty if there is none.
        adjudication: the reason for it.
        adjudicated_by, adjudicated_by_name, adjudicated_at: who decided, and when; the name stays
            when the account is deleted.
        adjudication_version: counts decisions and undone decisions; a decision that was made from
            an earlier version is refused.
        claimed_by, claimed_until: who is adjudicating the item, and the end of the claim by the
            database clock. A claim informs other review leads but does not lock the item.
    """

    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="items")
    number = models.PositiveIntegerField()
    key = models.CharField(max_length=400)
    stratum = models.CharField(max_length=100)
    probability = models.FloatField()
    instruction = models.TextField()
    response = models.TextField()
    first = models.TextField(blank=True, default="")
    second = models.TextField(blank=True, default="")
    is_swapped = models.BooleanField()
    original = models.ForeignKey(
        "self", on_delete=models.CASCADE, null=True, blank=True, related_name="repeats"
    )
    repeat_kind = models.CharField(
        max_length=8, choices=RepeatKind, blank=True, default=RepeatKind.NO
    )
    known = models.ForeignKey(
        KnownItem, on_delete=models.CASCADE, null=True, blank=True, related_name="copies"
    )
    reserved_for = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    holder = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    lease_until = models.DateTimeField(null=True, blank=True)
    seconds = models.FloatField(default=0.0)
    draft = models.JSONField(default=dict, blank=True)
    is_answered = models.BooleanField(default=False)
    skipped_by = models.ManyToManyField(settings.AUTH_USER_MODEL, blank=True, related_name="+")
    adjudicated = models.CharField(max_length=16, blank=True, default="")
    adjudication = models.TextField(blank=True, default="")
    adjudicated_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    adjudicated_by_name = models.CharField(max_length=150, blank=True, default="")
    adjudicated_at = models.DateTimeField(null=True, blank=True)
    adjudication_version = models.PositiveIntegerField(default=0)
    claimed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    claimed_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Ordered by batch and number."""

        ordering: ClassVar = ["batch", "number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["batch", "number"], name="item_number_is_unique"),
            models.CheckConstraint(
                condition=Q(probability__gt=0, probability__lte=1), name="item_chance_is_known"
            ),
            models.UniqueConstraint(
                fields=["known", "reserved_for"], name="known_item_is_asked_once"
            ),
        ]

    def __str__(self) -> str:
        return f"item {self.number} of batch {self.batch_id}"


class AdjudicationDraft(models.Model):
    """A decision that a review lead has not saved yet, one per lead and item."""

    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="adjudication_drafts")
    lead = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="adjudication_drafts"
    )
    choice = models.CharField(max_length=16, blank=True, default="")
    reason = models.TextField(blank=True, default="")
    updated = models.DateTimeField(auto_now=True)

    class Meta:
        """One row per item and lead."""

        constraints: ClassVar = [
            models.UniqueConstraint(fields=["item", "lead"], name="adjudication_draft_is_unique"),
        ]

    def __str__(self) -> str:
        return f"adjudication draft of {self.lead} for {self.item}"


class HiddenVerdict(models.Model):
    """Scores and verdicts of the judge and meta-judge, hidden from auditors until they answer."""

    item = models.OneToOneField(Item, on_delete=models.CASCADE, related_name="hidden_verdict")
    facts = models.JSONField()

    class Meta:
        """One row per item."""

        verbose_name = "hidden verdict"

    def __str__(self) -> str:
        return f"hidden verdict of {self.item}"


class Answer(models.Model):
    """An auditor's answer.

    Attributes:
        auditor: None after the account is deleted; `auditor_name` stays.
        choice: which judgment is better; empty for a response.
        points: how good the response is; None for judgments.
        revealed: when the auditor viewed the reveal; from then on the answer is final.
        source: the imported file; empty if it was submitted on the site.
    """

    item = models.OneToOneField(Item, on_delete=models.CASCADE, related_name="answer")
    auditor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="audit_answers",
    )
    auditor_name = models.CharField(max_length=150)
    choice = models.CharField(max_length=8, choices=PreferenceLabel, blank=True, default="")
    points = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(0), MaxValueValidator(5)]
    )
    confidence = models.PositiveSmallIntegerField(choices=Confidence, default=Confidence.MEDIUM)
    tags = models.JSONField(default=list, blank=True)
    comment = models.TextField(blank=True, default="")
    seconds = models.FloatField(default=0.0)
    submitted = models.DateTimeField(auto_now_add=True)
    revealed = models.DateTimeField(null=True, blank=True)
    source = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-submitted", "-pk"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(points__isnull=True) & ~Q(choice="")
                | Q(points__gte=0, points__lte=5, choice=""),
                name="answer_is_a_choice_or_points",
            ),
        ]

    def __str__(self) -> str:
        return f"answer of {self.auditor_name} to {self.item}"


class OnGateFailure(models.TextChoices):
    """What happens if a completed audit does not pass."""

    WAIT = "wait", "wait for a decision"
    ACTOR_PAIRS = "actor_pairs", "train on the actor pairs only"


class Gate(models.Model):
    """The requirement that an experiment trains on judge pairs only after a passed audit.

    Attributes:
        min_agreement: agreement without ties must be shown to be above this.
        confidence: confidence level of the interval whose lower end must be above it.
        min_answers: minimum number of answered items.
        on_failure: what happens when a complete audit has not passed.
    """

    experiment = models.OneToOneField(
        Experiment, on_delete=models.CASCADE, related_name="audit_gate"
    )
    min_agreement = models.FloatField(default=0.5)
    confidence = models.FloatField(default=0.95)
    min_answers = models.PositiveIntegerField(default=50)
    on_failure = models.CharField(max_length=16, choices=OnGateFailure, default=OnGateFailure.WAIT)

    class Meta:
        """One row per experiment."""

        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(on_failure__in=OnGateFailure.values), name="gate_on_failure_is_known"
            ),
            models.CheckConstraint(
                condition=Q(
                    min_agreement__gte=0,
                    min_agreement__lt=1,
                    confidence__gt=0,
                    confidence__lt=1,
                ),
                name="gate_limits_are_shares",
            ),
        ]

    def __str__(self) -> str:
        return f"audit gate of {self.experiment}"


class OverrideOutcome(models.TextChoices):
    """What an iteration with an overridden gate trains on."""

    ALL = "all", "all pairs"
    ACTOR_PAIRS = "actor_pairs", "the actor pairs only"


class GateOverride(models.Model):
    """Permission for an iteration to train without a passed audit.

    Attributes:
        experiment: None after its deletion; `experiment_name` keeps its name.
        source_sha256: hash of the battles that it was decided for; battles that are run again need
            their own decision. Empty for decisions that were made before this was recorded.
        created_by_name: `BY_THE_GATE` if the gate itself decided.
    """

    BY_THE_GATE: ClassVar = "the gate"

    experiment = models.ForeignKey(
        Experiment, on_delete=models.SET_NULL, null=True, blank=True, related_name="gate_overrides"
    )
    experiment_name = models.CharField(max_length=64)
    iteration = models.PositiveIntegerField()
    source_sha256 = models.CharField(max_length=64, blank=True, default="")
    outcome = models.CharField(max_length=16, choices=OverrideOutcome, default=OverrideOutcome.ALL)
    reason = models.TextField()
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_by_name = models.CharField(max_length=150)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Newest first; unique per iteration and battles."""

        ordering: ClassVar = ["-created", "-pk"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["experiment", "iteration", "source_sha256"], name="gate_override_is_unique"
            ),
            models.CheckConstraint(
                condition=Q(outcome__in=OverrideOutcome.values),
                name="gate_override_outcome_is_known",
            ),
        ]

    def __str__(self) -> str:
        return f"override of the audit gate of {self.experiment_name} iteration {self.iteration}"
