"""Two judgments of one response, with the meta-judge's text in both orders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meta_reward_core.storage.records import Battle, Judgment
from meta_reward_core.storage.schemas import to_records
from webapp.results.iteration_reader import OpenIteration, read_prompt_rows
from webapp.results.prompt_index import IterationIndex
from webapp.results.prompt_page import TextExcerpt

_UNREAD: Final = "no verdict"


@dataclass(frozen=True, slots=True)
class ComparedJudgmentView:
    """One of the two judgments."""

    sample: int
    judgment_id: str
    passage: TextExcerpt
    score: float | None
    elo: float | None


@dataclass(frozen=True, slots=True)
class OrderView:
    """The meta-judge's text in one order.

    Attributes:
        winner: sample of the judgment that won; None for a tie or an unreadable reply.
        ending: description of the outcome if there is no winner.
    """

    shown_first: int
    shown_second: int
    passage: TextExcerpt
    winner: int | None
    ending: str


@dataclass(frozen=True, slots=True)
class BattlePage:
    """Both judgments and both orders."""

    compared: tuple[ComparedJudgmentView, ComparedJudgmentView]
    orders: Sequence[OrderView]


def read_battle_page(
    opened: OpenIteration, index: IterationIndex, row: int, *, first: int, second: int
) -> BattlePage | None:
    """Read the battles of two judgments, given by their sample numbers; None without a battle.

    Raises:
        ArtifactError: a file is gone or differs from its manifest.
    """
    part, prompt_id = int(index.get_counts("part")[row]), index.prompt_ids[row]
    battled = index.rows["battled_response_id"][row].as_py()
    judgments = {
        judgment.sample: judgment
        for judgment in to_records(
            read_prompt_rows(opened.files, "judgments", part, prompt_id), Judgment
        )
        if judgment.response_id == battled
    }
    if first not in judgments or second not in judgments:
        return None
    pair = (judgments[first], judgments[second])
    battles = to_records(read_prompt_rows(opened.files, "battles", part, prompt_id), Battle)
    orders = [_make_order_view(battle, *found) for found in (pair, pair[::-1]) for battle in battles
              if _is_of(battle, *found)]  # fmt: skip
    if not orders:
        return None
    rated = index.rows["rated_judgment_id"][row].as_py() or []
    elo = dict(zip(rated, index.rows["elo"][row].as_py() or [], strict=True))
    return BattlePage(
        (_make_judgment_view(pair[0], elo), _make_judgment_view(pair[1], elo)), orders
    )


def _is_of(battle: Battle, first: Judgment, second: Judgment) -> bool:
    ids = (battle.first_judgment_id, battle.second_judgment_id)
    return ids == (first.judgment_id, second.judgment_id)


def _make_judgment_view(judgment: Judgment, elo: dict[str, float]) -> ComparedJudgmentView:
    return ComparedJudgmentView(
        judgment.sample,
        judgment.judgment_id,
        TextExcerpt.from_text(judgment.text),
        judgment.score,
        elo.get(judgment.judgment_id),
    )


def _make_order_view(battle: Battle, first: Judgment, second: Judgment) -> OrderView:
    winners = {"A": first.sample, "B": second.sample}
    reason = (battle.unparsed_reason or "").replace("_", " ")
    return OrderView(
        shown_first=first.sample,
        shown_second=second.sample,
        passage=TextExcerpt.from_text(battle.text),
        winner=winners.get(battle.verdict or ""),
        ending="a tie" if battle.verdict == "tie" else f"{_UNREAD}: {reason}".rstrip(": "),
    )
