"""Rows of an audit: a batch, its items, what is hidden of them, and what people answered.

What the judge and the meta-judge said of an item stands in a row of its own (`Truth`), which
nothing that shows an unanswered item reads. Answers outlive whoever gave them; every change of one
is a row of its own that nobody changes, and so is every change of a gate or a batch.
"""

from typing import ClassVar

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from webapp.experiments.models import Experiment


class ItemKind(models.TextChoices):
    """What an item asks."""

    JUDGMENTS = "judgments", "which of two judgments is better"
    RESPONSES = "responses", "how good is this response"


class BatchStatus(models.TextChoices):
    """A closed batch takes no more answers."""

    OPEN = "open", "open"
    CLOSED = "closed", "closed"


class RepeatKind(models.TextChoices):
    """For whom a repeat is."""

    NO = "", "first time"
    SAME = "same", "again, to the same auditor"
    OTHER = "other", "again, to another auditor"


class PreferenceLabel(models.TextChoices):
    """Which judgment is better; first and second as the item keeps them, not as they are shown."""

    FIRST = "first", "the first"
    SECOND = "second", "the second"
    TIE = "tie", "both alike"
    NEITHER = "neither", "neither is acceptable"


class Confidence(models.IntegerChoices):
    """How sure an auditor is."""

    LOW = 1, "guess"
    MEDIUM = 2, "fairly sure"
    HIGH = 3, "certain"


class ItemChange(models.TextChoices):
    """What happened to an item."""

    ANSWERED = "answered", "answered"
    LATE = "late", "answered too late: somebody else had it"
    UNDONE = "undone", "taken back"
    SKIPPED = "skipped", "skipped"
    REVEALED = "revealed", "looked at the reveal"
    IMPORTED = "imported", "imported"
    ADJUDICATED = "adjudicated", "adjudicated"
    PASSED_ON = "passed_on", "passed on to another auditor"


class Batch(models.Model):
    """Items drawn from finished stages of one iteration.

    Attributes:
        experiment: None once it was deleted; `subject` keeps its name.
        strata: per stratum its name, its population and how many items were drawn.
        source_sha256: hash of the files that the items were drawn from.
        hides_score_lines: whether the judgments are shown without their score lines.
        reveals_at_once: whether the reveal follows each answer, or the end of the batch.
        same_share, other_share: shares of the items that come again.
    """

    experiment = models.ForeignKey(
        Experiment, on_delete=models.SET_NULL, null=True, blank=True, related_name="audits"
    )
    subject = models.CharField(max_length=64)
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
    guidelines = models.TextField(blank=True, default="")
    rubric = models.TextField(blank=True, default="")
    status = models.CharField(max_length=8, choices=BatchStatus, default=BatchStatus.OPEN)
    auditors = models.ManyToManyField(
        settings.AUTH_USER_MODEL, blank=True, related_name="audit_batches"
    )
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="audits_made",
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
        return f"audit {self.pk} of {self.subject} iteration {self.iteration}"


class Item(models.Model):
    """One thing to look at; a repeat is an item of its own with the same texts.

    Attributes:
        number: its place in the batch, from 1.
        key: names it in its iteration.
        stratum, probability: where it was drawn from, and its chance to be drawn.
        first, second: texts of the judgments; empty for a response.
        is_swapped: whether the second judgment is shown as A.
        original: what a repeat repeats.
        holder, lease_until: who looks at it, and until when in the database's time.
        seconds: how long it was looked at so far.
        draft: what its holder has filled in so far.
        is_answered: whether it has an answer; whoever turns this on may write it.
        adjudicated: the verdict of who decided between conflicting answers; empty if nobody did.
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
    again = models.CharField(max_length=8, choices=RepeatKind, blank=True, default=RepeatKind.NO)
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

    class Meta:
        """In the order of the batch."""

        ordering: ClassVar = ["batch", "number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["batch", "number"], name="item_number_is_unique"),
            models.CheckConstraint(
                condition=Q(probability__gt=0, probability__lte=1), name="item_chance_is_known"
            ),
        ]

    def __str__(self) -> str:
        return f"item {self.number} of {self.batch}"


class Truth(models.Model):
    """What judge and meta-judge said of an item; nobody sees it before they answer."""

    item = models.OneToOneField(Item, on_delete=models.CASCADE, related_name="truth")
    facts = models.JSONField()

    class Meta:
        """One for each item."""

        verbose_name = "truth"

    def __str__(self) -> str:
        return f"truth of {self.item}"


class Answer(models.Model):
    """What somebody answered.

    Attributes:
        auditor: None once the account was removed; `auditor_name` stays.
        choice: which judgment is better; empty for a response.
        points: how good the response is; None for judgments.
        revealed: when the auditor looked at the reveal; from then on the answer stands.
        source: the file that it was imported from; empty if it was given on the desk.
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
    given = models.DateTimeField(auto_now_add=True)
    revealed = models.DateTimeField(null=True, blank=True)
    source = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-given", "-pk"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(points__isnull=True) & ~Q(choice="")
                | Q(points__gte=0, points__lte=5, choice=""),
                name="answer_is_a_choice_or_points",
            ),
        ]

    def __str__(self) -> str:
        return f"answer of {self.auditor_name} to {self.item}"


class History(models.Model):
    """One thing that happened to an item; never changed.

    Attributes:
        values: the answer as it was then.
    """

    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="history")
    change = models.CharField(max_length=16, choices=ItemChange)
    by_name = models.CharField(max_length=150)
    values = models.JSONField(default=dict, blank=True)
    when = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-when", "-pk"]
        verbose_name_plural = "history"

    def __str__(self) -> str:
        return f"{self.item}: {self.get_change_display()} by {self.by_name}"


class OnGateFailure(models.TextChoices):
    """What happens when a complete audit has not passed."""

    WAIT = "wait", "wait for a person"
    ACTOR_PAIRS = "actor_pairs", "train on the actor pairs alone"


class Gate(models.Model):
    """An experiment trains on an iteration's judge pairs only after a passed audit of them.

    Attributes:
        least: agreement without ties must be shown to be above this.
        confidence: of the interval whose lower end must be above it.
        answers: that many answered items at least.
        otherwise: what happens when a complete audit has not passed.
    """

    experiment = models.OneToOneField(
        Experiment, on_delete=models.CASCADE, related_name="audit_gate"
    )
    least = models.FloatField(default=0.5)
    confidence = models.FloatField(default=0.95)
    answers = models.PositiveIntegerField(default=50)
    otherwise = models.CharField(max_length=16, choices=OnGateFailure, default=OnGateFailure.WAIT)

    class Meta:
        """One for each experiment."""

        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(otherwise__in=OnGateFailure.values), name="gate_otherwise_is_known"
            ),
            models.CheckConstraint(
                condition=Q(least__gte=0, least__lt=1, confidence__gt=0, confidence__lt=1),
                name="gate_asks_for_shares",
            ),
        ]

    def __str__(self) -> str:
        return f"audit gate of {self.experiment}"


class Outcome(models.TextChoices):
    """What an iteration trains on whose audit was not passed."""

    ALL = "all", "all its pairs"
    ACTOR_PAIRS = "actor_pairs", "its actor pairs alone"


class Override(models.Model):
    """Somebody, or the gate itself, let an iteration train although its audit was not passed.

    Attributes:
        experiment: None once it was deleted; `subject` keeps its name.
        source_sha256: hash of the battles that it was decided for; battles that are made again
            want a decision of their own. Empty where it was decided before this was kept.
        by_name: of the gate itself it is `BY_THE_GATE`.
    """

    BY_THE_GATE: ClassVar = "the gate"

    experiment = models.ForeignKey(
        Experiment, on_delete=models.SET_NULL, null=True, blank=True, related_name="audit_overrides"
    )
    subject = models.CharField(max_length=64)
    iteration = models.PositiveIntegerField()
    source_sha256 = models.CharField(max_length=64, blank=True, default="")
    outcome = models.CharField(max_length=16, choices=Outcome, default=Outcome.ALL)
    reason = models.TextField()
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    by_name = models.CharField(max_length=150)
    when = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Newest first; one for each iteration and the battles that it had."""

        ordering: ClassVar = ["-when", "-pk"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["experiment", "iteration", "source_sha256"], name="override_is_unique"
            ),
            models.CheckConstraint(
                condition=Q(outcome__in=Outcome.values), name="override_outcome_is_known"
            ),
        ]

    def __str__(self) -> str:
        return f"override of the audit gate of {self.subject} iteration {self.iteration}"


class AuditAction(models.TextChoices):
    """What somebody did to a gate or to a batch."""

    GATE_SET = "gate_set", "asked for a passed audit"
    GATE_CHANGED = "gate_changed", "changed the gate"
    GATE_LOOSENED = "gate_loosened", "loosened the gate"
    GATE_REMOVED = "gate_removed", "removed the gate"
    CLOSED = "closed", "closed a batch"
    REOPENED = "reopened", "opened a batch again"
    ASSIGNED = "assigned", "changed who answers a batch"


class Act(models.Model):
    """One deed, written down for good: rows are added, and neither changed nor deleted.

    Attributes:
        experiment, batch, by: None once they are gone; `subject` and `by_name` keep their names.
        before, after: what the deed changed, as plain values; empty where there was nothing.
    """

    BY_THE_RECIPE: ClassVar = "the recipe"
    BY_A_COMMAND: ClassVar = "a command"

    experiment = models.ForeignKey(
        Experiment, on_delete=models.SET_NULL, null=True, blank=True, related_name="audit_acts"
    )
    subject = models.CharField(max_length=64)
    batch = models.ForeignKey(
        Batch, on_delete=models.SET_NULL, null=True, blank=True, related_name="acts"
    )
    deed = models.CharField(max_length=16, choices=AuditAction)
    before = models.JSONField(default=dict, blank=True)
    after = models.JSONField(default=dict, blank=True)
    reason = models.TextField(blank=True, default="")
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    by_name = models.CharField(max_length=150)
    when = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-when", "-pk"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(deed__in=AuditAction.values), name="act_deed_is_known"
            ),
            models.CheckConstraint(
                condition=~Q(deed__in=["gate_loosened", "gate_removed"]) | ~Q(reason=""),
                name="act_that_loosens_has_a_reason",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.by_name} {self.get_deed_display()}: {self.subject}"
