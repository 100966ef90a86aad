"""Check whether a judge and a meta-judge are usable: shares with intervals, limits and causes.

The judge probe checks before the first full stage, the circuit breakers after each shard. Both stop
only when the 95% interval of a share is entirely beyond its limit, so that a few unusual replies do
not stop a run. A limit of 0 (or 1 for a largest share) disables a check.

Nothing here depends on engines or files.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

from meta_reward_core.evaluation.confidence_intervals import compute_wilson_interval
from meta_reward_core.evaluation.judge_metrics import compute_entropy_bits, compute_score_histogram
from meta_reward_core.method.parsing import PROMPT_REFUSED, has_judge_line
from meta_reward_core.method.refusals import classify_refusal
from meta_reward_core.storage.records import Battle, Judgment, RefusedPrompt, Response

Role = Literal["actor", "judge", "meta-judge"]

Cause = Literal[
    "end_token",
    "limit_too_low",
    "wrong_format",
    "constant_judge",
    "prompts_too_long",
    "prompts_filtered",
    "prompts_rejected",
    "few_pairs",
    "not_tested",
]

_TURN_MARK: Final = re.compile(
    r"<\|[a-z_]+\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>"
    r"|^\s*(?:#+\s*)?(?:user|human|assistant|system|model)\s*:?\s*$"
    r"|(?<=[\d.!?)\]*\"'`])(?:user|assistant|system|model)\s*$",
    re.IGNORECASE | re.MULTILINE,
)
"""Start of another turn: control tokens generated as text, a role name alone on a line, or one that
follows a sentence without a space, because the control tokens between them are not part of a text.
"""

_STATEMENT: Final = re.compile(
    r"^\W{0,8}(?:(?:final|total|overall)\s+)?(?:score|winner)\W{1,6}"
    r"(?:\d[\d./]*|(?:judge?ment\s+)?(?:[AB]\b|tie\b))(?:\s*(?:/|out of)\s*\d+)?",
    re.IGNORECASE | re.MULTILINE,
)
"""A line that starts with a score or a winner, whatever follows it."""

_MIN_WORDS_AFTER: Final = 5
"""Minimum number of words after a statement in a reply that does not end with it."""

_MIN_ENDED: Final = 5
"""Minimum number of complete replies for a conclusion about the reply format."""

_MIN_ENDED_UNREADABLE: Final = 2
"""Like `_MIN_ENDED`, for the case that no reply is readable."""


@dataclass(frozen=True, slots=True)
class Share:
    """A count out of a total, with its 95% Wilson interval.

    Attributes:
        prompts: if the counted items of one prompt nearly always agree, the number of prompts, from
            which the interval is computed; None for other items.
    """

    count: int
    total: int
    prompts: int | None = None

    @property
    def value(self) -> float | None:
        """The share in [0, 1]; None if the total is 0."""
        return self.count / self.total if self.total else None

    @property
    def low(self) -> float:
        """Lower end of the interval; 0 if the total is 0."""
        return self._compute_interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the interval; 1 if the total is 0."""
        return self._compute_interval()[1]

    def _compute_interval(self) -> tuple[float, float]:
        if not self.total:
            return 0.0, 1.0
        size = self.total if self.prompts is None else self.prompts
        found = compute_wilson_interval(self.count / self.total, size)
        return found.low, found.high

    def describe(self) -> str:
        """The share with its interval and count, for messages."""
        if self.value is None:
            return "none (n = 0)"
        of = "" if self.prompts is None else f" of {self.prompts:,} prompts"
        interval = f"95% CI {self.low:.0%} to {self.high:.0%}"
        return f"{self.value:.1%} ({interval}, n = {self.total:,}{of})"

    def to_json(self) -> dict[str, Any]:
        """Convert it for a report."""
        low, high = self._compute_interval()
        return {"value": self.value, "low": low, "high": high, "n": self.total}


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """Limits of shares beyond which a run stops; all in [0, 1].

    Attributes:
        min_readable_share: minimum share of judgments with a readable score, and of replies with a
            readable verdict.
        max_cut_off_share: maximum share of replies that the token limit cut off.
        max_same_score_share: maximum share of scores in one bin of the histogram.
        max_refused_share: maximum share of prompts that the engine refused.
        min_pair_share: minimum share of prompts with a preference pair.
    """

    min_readable_share: float = 0.5
    max_cut_off_share: float = 0.9
    max_same_score_share: float = 0.95
    max_refused_share: float = 0.2
    min_pair_share: float = 0.05


@dataclass(slots=True)
class ReplyTally:
    """Counts of the replies of one role.

    Attributes:
        reasons: number of unreadable replies by reason.
        cut_off: number of replies that the token limit cut off.
        went_on: number of cut-off replies that continue after a score or a verdict, or start
            another turn, which is a symptom of a missing end token.
        ended: number of replies that ended by themselves.
        readable_ended: number of replies that ended by themselves and are readable.
        scores: frequency of each score.
        refusals: number of refused replies by kind, as far as the reason is known.
        tokens: number of tokens of all replies.
        prompts: number of prompts that the replies are about; None if unknown. An engine refuses
            all replies to a prompt or none, so refusals are as certain as this number allows.
    """

    replies: int = 0
    readable: int = 0
    refused: int = 0
    cut_off: int = 0
    went_on: int = 0
    ended: int = 0
    readable_ended: int = 0
    tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    scores: Counter[float] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    prompts: int | None = None

    def add_judgments(self, judgments: Iterable[Judgment]) -> Self:
        """Add judgments to the counts."""
        for one in judgments:
            self._add(
                one.text,
                tokens=one.tokens,
                is_cut_off=one.is_cut_off,
                problem=one.unscored_reason if one.score is None else None,
                has_statement=one.is_cut_off and _passes_statement(one.text),
            )
            if one.refusal is not None:
                self.refusals[classify_refusal(one.refusal)] += 1
            if one.score is not None and one.readout != "reward_model":
                self.scores[one.score] += 1
        return self

    def add_battles(self, battles: Iterable[Battle]) -> Self:
        """Add battles to the counts."""
        for one in battles:
            self._add(
                one.text,
                tokens=one.tokens,
                is_cut_off=one.finish_reason == "length",
                problem=one.unparsed_reason if one.verdict is None else None,
                has_statement=one.verdict is not None
                or (one.finish_reason == "length" and _passes_statement(one.text)),
            )
            if one.refusal is not None:
                self.refusals[classify_refusal(one.refusal)] += 1
        return self

    def add_refusals(self, refused: Iterable[RefusedPrompt]) -> Self:
        """Count the reasons of refused replies, which are stored in separate tables."""
        for one in refused:
            self.refusals[classify_refusal(one.reason)] += one.replies
        return self

    def add_responses(self, responses: Iterable[Response], *, refused: int) -> Self:
        """Add responses, and replies to prompts that the engine refused, to the counts."""
        for one in responses:
            self._add(
                one.text,
                tokens=one.tokens,
                is_cut_off=one.finish_reason == "length",
                problem=None,
                has_statement=False,
            )
        self.replies += refused
        self.refused += refused
        return self

    def _add(
        self, text: str, *, tokens: int, is_cut_off: bool, problem: str | None, has_statement: bool
    ) -> None:
        self.replies += 1
        self.tokens += tokens
        self.readable += problem is None
        if problem is not None:
            self.reasons[problem] += 1
        if problem == PROMPT_REFUSED:
            self.refused += 1
        elif is_cut_off:
            self.cut_off += 1
            self.went_on += has_statement or _TURN_MARK.search(text) is not None
        else:
            self.ended += 1
            self.readable_ended += problem is None

    @property
    def readable_share(self) -> Share:
        """Replies with a readable score or verdict."""
        return Share(self.readable, self.replies)

    @property
    def cut_off_share(self) -> Share:
        """Replies that were cut off by the token limit."""
        return Share(self.cut_off, self.replies)

    @property
    def refused_share(self) -> Share:
        """Prompts that the engine refused, usually because they are too long."""
        return Share(self.refused, self.replies, self.prompts)

    def is_refused_beyond(self, limits: HealthLimits) -> bool:
        """Whether more prompts were refused than allowed; one prompt alone shows nothing."""
        is_enough = self.prompts is None or self.prompts > 1
        return is_enough and self.refused_share.low > limits.max_refused_share

    @property
    def same_score_share(self) -> Share:
        """Scores in the fullest bin of the histogram."""
        histogram = self.histogram
        return Share(max(histogram), sum(histogram))

    @property
    def histogram(self) -> tuple[int, ...]:
        """Scores by bin of `HISTOGRAM_BINS`."""
        return compute_score_histogram(self.scores.elements())

    @property
    def entropy_bits(self) -> float | None:
        """Entropy of the scores' histogram."""
        return compute_entropy_bits(self.histogram)


@dataclass(frozen=True, slots=True)
class Finding:
    """A limit that was exceeded with certainty: observation, most likely cause and remedy."""

    role: Role
    cause: Cause
    sentence: str
    remedy: str


def diagnose_replies(
    tally: ReplyTally, *, role: Role, limits: HealthLimits, max_new_tokens: int
) -> list[Finding]:
    """Find faults of the replies of one role, with their most likely causes.

    Args:
        tally: counts of the replies.
        role: role that wrote the replies.
        limits: limits beyond which a share is a fault.
        max_new_tokens: token limit of the role, for the remedy.
    """
    found = []
    if tally.is_refused_beyond(limits):
        found.append(_describe_refused(tally, role))
    answered = Share(tally.readable, tally.replies - tally.refused)
    is_unreadable = answered.high < limits.min_readable_share
    is_cut_off = tally.cut_off_share.low > limits.max_cut_off_share
    if (is_unreadable or is_cut_off) and not found:
        found.append(_find_reply_cause(tally, role, limits, max_new_tokens))
    is_constant = tally.same_score_share.low > limits.max_same_score_share
    if role == "judge" and is_constant and not found:
        found.append(_describe_constant(tally))
    return found


def explain_unreadable(
    tally: ReplyTally, *, role: Role, limits: HealthLimits, max_new_tokens: int
) -> Finding:
    """Explain why some replies of a role cannot be read, regardless of their share."""
    if tally.refused > (tally.replies - tally.readable) / 2:
        return _describe_refused(tally, role)
    if tally.ended - tally.readable_ended > (tally.replies - tally.readable) / 2:
        return _describe_unknown_format(tally, role)
    return _find_reply_cause(tally, role, limits, max_new_tokens)


def diagnose_actor(
    tally: ReplyTally, *, limits: HealthLimits, max_new_tokens: int
) -> list[Finding]:
    """Find faults of responses: refused prompts, or replies cut off by the token limit.

    Args:
        tally: counts of the responses, and of the replies that are missing because prompts were
            refused.
        limits: limits beyond which a share is a fault.
        max_new_tokens: token limit of the actor, for the remedy.
    """
    if tally.is_refused_beyond(limits):
        return [_describe_refused(tally, "actor")]
    if tally.cut_off_share.low <= limits.max_cut_off_share:
        return []
    seen = (
        f"{tally.cut_off_share.describe()} of the responses were cut off at "
        f"{max_new_tokens:,} tokens"
    )
    if _goes_on(tally):
        return [
            Finding(
                "actor",
                "end_token",
                f"{seen}, and {tally.went_on:,} of them start another turn: the model does not "
                "stop.",
                _STOPPING_REMEDY,
            )
        ]
    return [
        Finding(
            "actor",
            "limit_too_low",
            f"{seen}, and a response that is cut off is never chosen.",
            f"Raise actor.max_new_tokens (now {max_new_tokens:,}), or request shorter "
            f"responses (actor.system_prompt).",
        )
    ]


def _knows_no_format(tally: ReplyTally, limits: HealthLimits) -> bool:
    """Whether the complete replies show that the model does not know the format.

    If only the limit is too low, replies that end in time are readable. So a few complete but
    unreadable replies are sufficient evidence if no reply at all can be read.
    """
    if tally.ended >= _MIN_ENDED_UNREADABLE and not tally.readable:
        return True
    ended = Share(tally.readable_ended, tally.ended)
    return tally.ended >= _MIN_ENDED and ended.high < max(limits.min_readable_share, 0.5)


def _passes_statement(text: str) -> bool:
    """Whether a text that was cut off continues after a score or a verdict."""
    if has_judge_line(text):
        return True
    stated = _STATEMENT.search(text)
    return stated is not None and len(text[stated.end() :].split()) >= _MIN_WORDS_AFTER


def _goes_on(tally: ReplyTally) -> bool:
    """Whether most replies that were cut off were already complete: see `went_on`."""
    return tally.cut_off > 0 and Share(tally.went_on, tally.cut_off).low > 0.5


_STOPPING_REMEDY: Final = (
    "Check the end token: the token that the chat template writes after a reply must be "
    "among eos_token_id in generation_config.json. A higher token limit does not help."
)


def _find_reply_cause(
    tally: ReplyTally, role: Role, limits: HealthLimits, max_new_tokens: int
) -> Finding:
    what = "judgments" if role == "judge" else "verdicts"
    seen = (
        f"{tally.readable_share.describe()} of the {what} are readable; "
        f"{tally.cut_off_share.describe()} were cut off at {max_new_tokens:,} tokens."
    )
    key = "judge" if role == "judge" else "meta_judge"
    if _goes_on(tally):
        return Finding(
            role,
            "end_token",
            f"{seen} {tally.went_on:,} of the {tally.cut_off:,} replies that were cut off continue "
            "after their score or verdict, or start another turn: the model does not stop.",
            _STOPPING_REMEDY,
        )
    if _knows_no_format(tally, limits):
        return Finding(
            role,
            "wrong_format",
            f"{seen} Of the {tally.ended:,} replies that ended by themselves, "
            f"{tally.readable_ended:,} can be read: the model does not know the reply format.",
            "Fine-tune the base model on judgments (`manage.py train_seed`), or use another "
            f"template ({key}.template). A higher token limit does not help.",
        )
    if tally.cut_off:
        return Finding(
            role,
            "limit_too_low",
            f"{seen} Replies end before they state a score or a verdict.",
            f"Raise {key}.max_new_tokens (now {max_new_tokens:,}). If the replies do not look like "
            f"{what}, fine-tune the base model on judgments (`manage.py train_seed`) instead.",
        )
    return _describe_unknown_format(tally, role)


def _describe_unknown_format(tally: ReplyTally, role: Role) -> Finding:
    what = "judgments" if role == "judge" else "verdicts"
    reason = tally.reasons.most_common(1)
    return Finding(
        role,
        "wrong_format",
        f"{tally.readable_share.describe()} of the {what} are readable. The most frequent reason: "
        f"{reason[0][0] if reason else 'unknown'}.",
        "Read some of the replies; fine-tune the base model on judgments "
        f"(`manage.py train_seed`), or use another template ({role.replace('-', '_')}.template).",
    )


def _describe_refused(tally: ReplyTally, role: Role) -> Finding:
    seen = f"{tally.refused_share.describe()} of the {role}'s prompts were refused"
    kind, count = (tally.refusals.most_common(1) or [("too_long", tally.refused)])[0]
    of_all = f"{count:,} of {tally.refused:,}"
    if kind == "filtered":
        return Finding(
            role,
            "prompts_filtered",
            f"{seen}, {of_all} by the server's content filter.",
            "Leave out these prompts, which the iteration lists with their reasons, or use another "
            "server.",
        )
    if kind == "rejected":
        return Finding(
            role,
            "prompts_rejected",
            f"{seen}, {of_all} for a reason that is neither their length nor a content filter.",
            "Read the reasons, which the iteration lists with the prompts, and the server's log.",
        )
    key = role.replace("-", "_")
    settings = " or ".join(dict.fromkeys((f"{key}.max_new_tokens", "actor.max_new_tokens")))
    return Finding(
        role,
        "prompts_too_long",
        f"{seen}, {of_all} because the prompt and the longest reply together exceed the model's "
        "context.",
        f"Lower {settings}, shorten the template, or use a model with a longer context.",
    )


def _describe_constant(tally: ReplyTally) -> Finding:
    score, count = tally.scores.most_common(1)[0]
    return Finding(
        "judge",
        "constant_judge",
        f"The judge gives nearly every response the same score: {score:g} in {count:,} of "
        f"{tally.scores.total():,} judgments (entropy {tally.entropy_bits or 0.0:.2f} bits), so "
        "hardly any prompt can give a preference pair.",
        "Raise judge.temperature, use another template or rubric, or fine-tune the base model on "
        "judgments whose scores vary (`manage.py train_seed`).",
    )


def describe_untested(
    *, responses: int, answers: int, unfinished: int, seconds: float, limit: float
) -> Finding:
    """Describe a probe without any judgment that can be measured.

    Args:
        responses: number of responses of the probe.
        answers: number of those that contain a finished answer.
        unfinished: number of judgments that the probe cut off to save time.
        seconds: duration of the probe.
        limit: time limit of the probe, in seconds.
    """
    remedy = "use a faster engine, or lower actor.max_new_tokens"
    if unfinished:
        seen = f"none of its {unfinished:,} judgments was finished"
    elif answers:
        seen = f"{responses:,} responses were generated, but none was judged"
    elif responses:
        seen = f"none of the {responses:,} responses contains a finished answer"
        remedy = "raise actor.max_new_tokens, or use a faster engine"
    else:
        seen = "no response was finished"
    return Finding(
        "judge",
        "not_tested",
        f"The judge was not tested: {seen} in {seconds:.0f} s.",
        f"Raise probe.seconds (now {limit:g}), {remedy}.",
    )


def diagnose_pairs(share: Share, *, kind: str, limits: HealthLimits) -> list[Finding]:
    """Check whether too few prompts have a pair of a kind."""
    if share.high >= limits.min_pair_share:
        return []
    return [
        Finding(
            "judge" if kind == "actor" else "meta-judge",
            "few_pairs",
            f"{share.describe()} of the prompts would give a pair of kind {kind}.",
            "Raise actor.samples, judge.samples or the temperature, so that scores differ.",
        )
    ]


def list_causes(findings: Sequence[Finding]) -> list[Cause]:
    """Return the distinct causes of findings, in order."""
    return list(dict.fromkeys(finding.cause for finding in findings))
