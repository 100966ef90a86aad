"""The time budget of the judge probe: which calls start, and how long a running call may take."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from meta_reward_core.engines.base import Progress

Result = TypeVar("Result")

FIRST_CALL_SHARES: Final = {"actor": 1 / 3, "judge": 1 / 2}
"""Part of the remaining time that the first call of a role may take, so that later roles have some;
1 for a role that is not listed."""

MIN_TOKENS: Final = 32
"""Minimum token limit of a reply; shorter replies are not informative."""

_RATE_SOURCES: Final = {"judge": "actor", "meta_judge": "judge"}
"""For each role, the role whose speed is assumed until the role has replies of its own."""


class TimeUpError(Exception):
    """A call did not end within the budget; its replies are lost."""


class _TooSlowError(Exception):
    """A running call will not end in time.

    Attributes:
        max_tokens: token limit of one reply with which the call would end in time.
    """

    def __init__(self, max_tokens: int) -> None:
        super().__init__(max_tokens)
        self.max_tokens = max_tokens


@dataclass(slots=True)
class RoleSpending:
    """Replies, tokens and seconds of one role."""

    replies: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class ProbeBudget:
    """Spent and remaining time of a probe.

    Attributes:
        seconds: time limit of the whole probe.
        clock: returns the seconds of a monotonic clock.
        spent: cost of completed calls, by role.
        lowered: token limit of one reply, by role, if the recipe's limit takes too long.
    """

    seconds: float
    clock: Callable[[], float]
    spent: dict[str, RoleSpending] = field(default_factory=dict)
    lowered: dict[str, int] = field(default_factory=dict)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def measure_elapsed(self) -> float:
        """Measure the seconds since the start."""
        return self.clock() - self.started

    def measure_left(self) -> float:
        """Measure the remaining seconds, at least 0."""
        return max(0.0, self.seconds - self.measure_elapsed())

    def count_affordable(self, role: str, replies: int) -> int:
        """Estimate how many of these replies can be generated in time.

        Before the first reply of a role, the speed of the previous role is used; if that role has
        no replies either, all replies are assumed to be possible.
        """
        known = self.spent.get(role) or self.spent.get(_RATE_SOURCES.get(role, ""))
        left = self.measure_left()
        if known is None or not known.replies:
            return replies if left else 0
        each = known.seconds / known.replies
        return replies if replies * each <= left else int(left / each)

    def allows(self, role: str, replies: int) -> bool:
        """Whether this number of replies can probably be generated in time."""
        return self.count_affordable(role, replies) >= replies

    def call(
        self,
        role: str,
        make: Callable[[int, Progress], tuple[Result, int]],
        *,
        replies: int,
        max_new_tokens: int,
    ) -> Result:
        """Generate replies, and record their cost.

        If the first call of a role will not end in time, it is repeated with a lower token limit.

        Args:
            make: generates the replies; it is called with the token limit of one reply and a
                progress callback, and returns a result and the number of tokens.
            replies: maximum number of replies that `make` generates.
            max_new_tokens: the recipe's token limit of one reply.

        Raises:
            TimeUpError: the time was up before the call ended. An engine that reports no progress
                during a call is not interrupted.
        """
        is_first = role not in self.spent
        limit, left = self.lowered.get(role, max_new_tokens), self.measure_left()
        planned = left * FIRST_CALL_SHARES.get(role, 1.0) if is_first else None
        watch = _CallWatch(self.clock, left, planned, replies=replies, limit=limit)
        try:
            result, tokens = make(limit, watch)
        except _TooSlowError as error:
            if error.max_tokens < MIN_TOKENS:
                raise TimeUpError from error
            limit = self.lowered[role] = error.max_tokens
            watch = _CallWatch(self.clock, self.measure_left(), None, replies=replies, limit=limit)
            result, tokens = make(limit, watch)
        spent = self.spent.setdefault(role, RoleSpending())
        spent.replies += replies
        spent.tokens += tokens
        spent.seconds += self.clock() - watch.started
        return result


class _CallWatch:
    """Receives the progress of a call, and ends it when its time is up.

    Args:
        left: seconds until the call is stopped.
        planned: seconds that the call should take; None: all remaining seconds.
        limit: token limit of one reply.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        left: float,
        planned: float | None,
        *,
        replies: int,
        limit: int,
    ) -> None:
        self.started = clock()
        self._clock, self._left, self._planned = clock, left, planned
        self._replies, self._limit = replies, limit
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, tokens: int) -> None:
        """Process a report of an engine.

        Raises:
            TimeUpError: the time is up.
            _TooSlowError: the call will exceed its planned time, at the rate between the first two
                reports.
        """
        if done >= self._replies:
            return
        now = self._clock() - self.started
        if now > self._left:
            raise TimeUpError
        if self._planned is None or done or not tokens:
            self._planned = None  # no projection: the engine reports only finished replies
        elif self._first is None:
            self._first = now, tokens
        else:
            self._project(now, tokens, self._planned, *self._first)
            self._planned = None

    def _project(
        self, now: float, tokens: int, planned: float, prefill: float, before: int
    ) -> None:
        """Require that replies of maximum length end within the planned time.

        Args:
            prefill: seconds until the first report, spent mostly on reading the prompts.
            before: number of tokens in the first report.
        """
        each = (now - prefill) / max(1, tokens - before)
        if prefill + each * self._replies * self._limit > planned:
            raise _TooSlowError(int((planned - now - prefill) / (each * self._replies)))
