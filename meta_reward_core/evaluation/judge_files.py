"""Opinions of a judge or of a reference about responses, from files.

Either scores, one row per judgment: `prompt_id, response_id, score` (an experiment's table
`judgments` is such a file), or `rank` in its place, 1 being the best. Or verdicts on pairs, one
row per order shown: `prompt_id, first_id, second_id, verdict` with verdict A, B or tie.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal, cast

from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.files import NumberedRow, read_rows, write_json_lines
from meta_reward_core.records import Verdict

SAME: Final = 1e-9
"""Mean scores nearer than this are a tie."""

Response = tuple[str, str]
"""(prompt_id, response_id)"""

Pair = tuple[str, str, str]
"""(prompt_id, one response_id, another), the two sorted."""

Shown = tuple[str, str, str]
"""(prompt_id, id shown first, id shown second)"""

Order = Literal[-1, 0, 1]
"""1: the first id of a pair is better; -1: the second; 0: a tie, or two verdicts that differ."""


@dataclass(frozen=True, slots=True)
class Opinions:
    """What a judge or a reference thinks. Either `scores` or `verdicts` is filled.

    Attributes:
        name: the file's.
        scores: of each response, one for each time that it was judged; higher is better.
        verdicts: of each order shown, one for each time that it was asked.
        missing: judgments without a score, or verdicts that could not be read.
        has_scale: whether scores are points and not ranks.
    """

    name: str
    scores: Mapping[Response, Sequence[float]]
    verdicts: Mapping[Shown, Sequence[Verdict]]
    missing: int
    has_scale: bool


def read_opinions(path: str | Path) -> Opinions:
    """Read scores, ranks or verdicts.

    Raises:
        EvaluationFileError: a row has none of the known forms, forms are mixed, or nothing can
            be used.
    """
    rows = read_rows(path)
    forms = {_form(row) for row in rows}
    if len(forms) > 1:
        raise EvaluationFileError(
            f"{Path(path).name}: mixes {' and '.join(sorted(forms))}; split the file."
        )
    form = forms.pop()
    found = _verdicts(path, rows) if form == "verdict" else _scores(path, rows, form)
    if not found.scores and not found.verdicts:
        raise EvaluationFileError(f"{Path(path).name}: no row has a {form} that can be read.")
    return found


def _form(row: NumberedRow) -> str:
    forms = [column for column in ("verdict", "score", "rank") if column in row.values]
    if not forms:
        row.refuse("has neither score, rank nor verdict; add one of these columns.")
    return forms[0]


def _scores(path: str | Path, rows: Sequence[NumberedRow], form: str) -> Opinions:
    sign = -1.0 if form == "rank" else 1.0
    found: defaultdict[Response, list[float]] = defaultdict(list)
    seen: set[tuple[Response, str]] = set()
    missing = 0
    for row in rows:
        key = (row.name("prompt_id"), row.name("response_id"))
        name = row.values.get("judgment_id")
        if name is not None and (key, name) in seen:
            row.refuse(f"judgment {name} was there before; keep one row of it.")
        seen.add((key, str(name)))
        value = row.number(form)
        if value is None:
            missing += 1
        else:
            found[key].append(sign * value)
    return Opinions(Path(path).name, dict(found), {}, missing, has_scale=form == "score")


def _verdicts(path: str | Path, rows: Sequence[NumberedRow]) -> Opinions:
    found: defaultdict[Shown, list[Verdict]] = defaultdict(list)
    missing = 0
    for row in rows:
        verdict = row.optional_text("verdict")
        key = (row.name("prompt_id"), row.name("first_id"), row.name("second_id"))
        if key[1] == key[2]:
            row.refuse(f"{key[1]} is compared with itself; remove the row.")
        if verdict not in (None, "A", "B", "tie"):
            row.refuse("the verdict must be A, B or tie, or null where there is none.")
        if verdict is None:
            missing += 1
        else:
            found[key].append(cast(Verdict, verdict))
    return Opinions(Path(path).name, {}, dict(found), missing, has_scale=False)


def write_verdicts(path: Path, verdicts: Iterable[tuple[Shown, Verdict | None]]) -> None:
    """Write verdicts as `read_opinions` reads them."""
    write_json_lines(path, (_verdict_row(shown, verdict) for shown, verdict in verdicts))


def _verdict_row(shown: Shown, verdict: Verdict | None) -> dict[str, Any]:
    prompt, first, second = shown
    return {"prompt_id": prompt, "first_id": first, "second_id": second, "verdict": verdict}


def pair_orders(opinions: Opinions) -> dict[Pair, Order]:
    """The order of every pair of responses to one prompt that the opinions say something of.

    Of scores: by their means. Of verdicts: what all verdicts on the pair say, in whichever order
    it was shown; where they differ, 0.
    """
    if opinions.verdicts:
        return _orders_of_verdicts(opinions.verdicts)
    by_prompt: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for (prompt, response), scores in opinions.scores.items():
        by_prompt[prompt][response] = sum(scores) / len(scores)
    return {
        (prompt, one, other): _sign(means[one] - means[other])
        for prompt, means in by_prompt.items()
        for one, other in combinations(sorted(means), 2)
    }


def _orders_of_verdicts(verdicts: Mapping[Shown, Sequence[Verdict]]) -> dict[Pair, Order]:
    said: defaultdict[Pair, set[Order]] = defaultdict(set)
    for (prompt, first, second), given in verdicts.items():
        one, other = sorted((first, second))
        for verdict in given:
            better = {"A": first, "B": second}.get(verdict)
            order: Order = 0 if better is None else (1 if better == one else -1)
            said[prompt, one, other].add(order)
    return {pair: orders.pop() if len(orders) == 1 else 0 for pair, orders in said.items()}


def _sign(difference: float) -> Order:
    if abs(difference) < SAME:
        return 0
    return 1 if difference > 0 else -1
