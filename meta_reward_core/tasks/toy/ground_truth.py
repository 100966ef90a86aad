"""Ground truth of the toy task, for evaluation and seed data only.

No stage of the loop may import this module: sampling, judging, pairing and training never use it.
"""

import re
from functools import cache

from meta_reward_core.tasks.toy import task

_SCORE = re.compile(r"Score:\s*(-?\d+(?:\.\d+)?)", re.IGNORECASE)


def compute_true_quality(instruction: str, response: str) -> float:
    """Count the correct words of a response, minus the words beyond five (0 to 5).

    Polite phrases have no value. A prompt that is not from the toy task scores 0.
    """
    parsed = task.parse_instruction(instruction)
    if parsed is None:
        return 0.0
    language, sources = parsed
    words = [word for word in response.split() if word in _list_content_words()]
    expected = {task.translate_word(language, source) for source in sources}
    surplus = max(0, len(words) - task.SLOTS)
    return float(max(0, len(expected.intersection(words)) - surplus))


@cache
def _list_content_words() -> frozenset[str]:
    return frozenset(word for slot in task.LEXICON for row in slot for word in row[1:])


def is_judgment_right(instruction: str, response: str, judgment: str) -> bool:
    """Whether a judgment's last score equals the response's true quality."""
    scores = _SCORE.findall(judgment)
    return bool(scores) and float(scores[-1]) == compute_true_quality(instruction, response)


def count_judgment_errors(instruction: str, response: str, judgment: str) -> int:
    """Count the wrong slots of a judgment; a slot without a line is wrong."""
    parsed = task.parse_instruction(instruction)
    if parsed is None:
        return task.SLOTS
    language, sources = parsed
    given = set(response.split())
    verdicts = _parse_stated_verdicts(judgment)
    return sum(
        verdicts.get(word) != (word in given)
        for word in (task.translate_word(language, source) for source in sources)
    )


def _parse_stated_verdicts(judgment: str) -> dict[str, bool]:
    """Parse the verdict by expected word, for each well-formed line."""
    rows = [line.split() for line in judgment.splitlines()]
    return {row[0]: row[2] == "yes" for row in rows if len(row) == 4 and row[2] in task.VERDICTS}


def pick_better_judgment(
    instruction: str, response: str, judgment_a: str, judgment_b: str
) -> str | None:
    """Return the judgment with fewer errors, "A" or "B"; None if they have equally many."""
    errors_a = count_judgment_errors(instruction, response, judgment_a)
    errors_b = count_judgment_errors(instruction, response, judgment_b)
    if errors_a == errors_b:
        return None
    return "A" if errors_a < errors_b else "B"


def is_verdict_right(
    instruction: str, response: str, judgment_a: str, judgment_b: str, *, winner: str
) -> bool | None:
    """Whether a meta-judge's winner has fewer errors; None if both have equally many."""
    better = pick_better_judgment(instruction, response, judgment_a, judgment_b)
    return None if better is None else winner == better
