"""Exchange Arena-Hard files with arena-hard-auto's own code, versions 0.1 and 2.0.

For each version, both sides process rows in its published layout; its `show_result.py` reads the
files of `evaluate run arena`; its `gen_judgment.py` parses texts of judges; its style counter
processes answers. Bootstrapped values may differ by a few points.
"""

import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tool_roundtrip_rows import Comparison

from meta_reward_core.engines.base import Conversation, SamplingParams
from meta_reward_core.engines.scripted import ScriptedEngine
from meta_reward_core.evaluation.arena_hard import (
    GameOutcomes,
    build_outcomes,
    compute_style_features,
    score_arena,
)
from meta_reward_core.evaluation.arena_hard_io import (
    ArenaAnswer,
    ArenaJudgment,
    ArenaQuestion,
    Version,
    find_mark,
    group_by_category,
    read_answers,
    read_judgments,
    write_answers,
    write_judgments,
)
from meta_reward_core.evaluation.arena_hard_judge import (
    build_styled_answers,
    measure_style,
    play_games,
)
from meta_reward_core.evaluation.confidence_intervals import Array
from meta_reward_core.evaluation.scorecard import Scorecard
from tests.core.evaluation import tool_data

VERSIONS: Final[tuple[Version, ...]] = ("0.1", "2.0")
BENCHMARKS: Final[Mapping[Version, str]] = {"0.1": "arena-hard-v0.1", "2.0": "arena-hard-v2.0"}

OUR_MODEL: Final = "our-model"

_ROUNDS: Final = 2000
# maximum deviation of the tool's 100 rounds, in points: four standard deviations of the end of a
# band
_DRAWS: Final = 4.0
_SINGLE_PRECISION: Final = 1e-5
_SIZE: Final = 100


def compare(python: Path) -> list[Comparison]:
    """Run both versions in the environment of `python`, with checkouts next to it."""
    checkouts = python.parents[1] / "sources"
    return [row for version in VERSIONS for row in _compare_version(python, checkouts, version)]


def _compare_version(python: Path, checkouts: Path, version: Version) -> Iterator[Comparison]:
    checkout = checkouts / f"arena-hard-auto-v{version}"
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = Path(folder) / "theirs", Path(folder) / "ours"
        _write_their_rows(theirs, version)
        _write_our_games(ours, version)
        for what, work in (
            ("its layout", theirs),
            ("games as evaluate run arena writes them", ours),
        ):
            seen = _run_tool(python, checkout, version, work)
            if work == theirs:
                yield from _compare_texts(version, seen)
            yield from _compare_scores(version, what, work, seen["scores"])


def _run_tool(python: Path, checkout: Path, version: Version, work: Path) -> dict[str, Any]:
    texts = {"judgments": tool_data.ARENA_TEXTS, "answers": tool_data.STYLED_ANSWERS}
    (work / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    side = Path(__file__).with_name("arena_hard_side.py")
    done = subprocess.run(
        [python, side, checkout, version, work], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"arena-hard-auto v{version} could not read {work.name}:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads((work / "seen.json").read_text(encoding="utf-8"))
    return found


# Files in the layout that the tool requires.


def _judgment_file(work: Path, version: Version) -> Path:
    return work / "data" / BENCHMARKS[version] / "model_judgment" / tool_data.JUDGE / "all.jsonl"


def _answer_folder(work: Path, version: Version) -> Path:
    return work / "data" / BENCHMARKS[version] / "model_answer"


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _write_their_rows(work: Path, version: Version) -> None:
    _write_lines(_judgment_file(work, version), tool_data.arena_judgments(version))
    answers = tool_data.arena_answers() if version == "2.0" else []
    for model in {row["model"] for row in answers}:
        rows = [row for row in answers if row["model"] == model]
        _write_lines(_answer_folder(work, version) / f"{model}.jsonl", rows)
    _answer_folder(work, version).mkdir(parents=True, exist_ok=True)


def _write_our_games(work: Path, version: Version) -> None:
    """Generate games with a scripted judge; some of its judgments have no readable mark."""
    judgments: list[ArenaJudgment] = []
    own: list[ArenaAnswer] = []
    folder = _answer_folder(work, version)
    folder.mkdir(parents=True)
    for category, baseline in _baselines(version).items():
        questions = {
            f"{category}-{number}": ArenaQuestion(f"task {number}", category)
            for number in range(_SIZE)
        }
        answers = {name: _answers(questions, name) for name in (baseline, OUR_MODEL)}
        judgments += _play(questions, answers[baseline], answers[OUR_MODEL], version)
        own += answers[OUR_MODEL]
        write_answers(folder / f"{baseline}.jsonl", answers[baseline], version=version)
    write_answers(folder / f"{OUR_MODEL}.jsonl", own, version=version)
    path = _judgment_file(work, version)
    path.parent.mkdir(parents=True)
    write_judgments(path, judgments, version=version)


def _play(
    questions: Mapping[str, ArenaQuestion],
    base: Sequence[ArenaAnswer],
    own: Sequence[ArenaAnswer],
    version: Version,
) -> list[ArenaJudgment]:
    return play_games(
        ScriptedEngine(_judge),
        questions,
        {answer.uid: answer for answer in base},
        {answer.uid: answer for answer in own},
        judge=tool_data.JUDGE,
        version=version,
        sampling=SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=100),
    )


def _baselines(version: Version) -> Mapping[str, str]:
    if version == "0.1":
        return {"arena-hard-v0.1": tool_data.FIRST_BASELINE}
    return tool_data.BASELINES


def _answers(questions: Mapping[str, ArenaQuestion], model: str) -> list[ArenaAnswer]:
    repeats = 3 if model == OUR_MODEL else 5
    texts = [
        (f"# {model}\n" + f"**word** and more {number}\n- item\n" * (1 + number % repeats),)
        for number in range(len(questions))
    ]
    return build_styled_answers(list(questions), texts, model=model)


def _judge(conversation: Conversation, _sample: int, _seed: int) -> str:
    place = zlib.crc32(conversation[-1]["content"].encode())
    return f"So: {tool_data.ARENA_TEXTS[place % len(tool_data.ARENA_TEXTS)]}"


# Comparison of both sides.


def _compare_texts(version: Version, seen: Mapping[str, Any]) -> Iterator[Comparison]:
    tool = f"arena-hard-auto {version}"
    for text, theirs in zip(tool_data.ARENA_TEXTS, seen["marks"], strict=True):
        yield Comparison(tool, f"mark in {text!r}", find_mark(text, version=version), theirs)
    for number, (text, theirs) in enumerate(
        zip(tool_data.STYLED_ANSWERS, seen["styles"], strict=True)
    ):
        ours = measure_style(text)[1:]
        what = f"headers, items, bold of answer {number}"
        yield Comparison(tool, what, str(list(ours)), str(theirs))


def _compare_scores(
    version: Version, what: str, work: Path, theirs: Mapping[str, Any]
) -> Iterator[Comparison]:
    judgments = read_judgments(
        [_judgment_file(work, version)], version=version, baseline=tool_data.FIRST_BASELINE
    )
    if version == "0.1":
        yield from _compare_first_version(what, judgments, theirs)
    else:
        answers = read_answers(sorted(_answer_folder(work, version).glob("*.jsonl")))
        yield from _compare_second_version(what, judgments, answers, theirs)


def _compare_first_version(
    what: str, judgments: Sequence[ArenaJudgment], theirs: Mapping[str, Any]
) -> Iterator[Comparison]:
    tool = "arena-hard-auto 0.1"
    copies = float(build_outcomes(judgments, version="0.1").copies.sum())
    yield Comparison(tool, f"{what}: battles", copies, theirs["battles"])
    for card in score_arena(judgments, version="0.1", rounds=_ROUNDS):
        row = theirs["rows"][card.model]
        for column, tolerance in (
            ("score", 0.006),
            ("rating_q025", _DRAWS),
            ("rating_q975", _DRAWS),
        ):
            label = f"{what}: {card.model}, {column}"
            yield Comparison(tool, label, card.columns[column], float(row[column]), tolerance)


def _compare_second_version(
    what: str,
    judgments: Sequence[ArenaJudgment],
    answers: Mapping[tuple[str, str], ArenaAnswer],
    theirs: Mapping[str, Any],
) -> Iterator[Comparison]:
    tool = "arena-hard-auto 2.0"
    cards = score_arena(
        judgments, version="2.0", controls=["length", "markdown"], answers=answers, rounds=_ROUNDS
    )
    for category, own in group_by_category(judgments, version="2.0").items():
        outcomes = build_outcomes(own, version="2.0")
        features = compute_style_features(outcomes, answers, own[0].baseline)
        gap = _feature_gap(outcomes, features, theirs[str(category)]["features"])
        label = f"{what}: {category}, largest difference of a style feature"
        yield Comparison(tool, label, gap, 0.0, _SINGLE_PRECISION)
    for card in cards:
        category = card.benchmark.removeprefix("arena_hard_2.0_")
        label = f"{what}: {category}, {card.model}"
        yield from _compare_card(tool, label, card, theirs[category])


def _compare_card(
    tool: str, what: str, card: Scorecard, found: Mapping[str, Any]
) -> Iterator[Comparison]:
    board, controlled = found["board"][card.model], found["controlled"][card.model]
    score = card.get_metric("score").value
    band = card.get_metric("score_band_90_of_version_2.0")
    at_style = card.get_metric("score_controlled_length_markdown_band_90")
    yield Comparison(tool, f"{what}, mean", score, 100 * found["means"][card.model], 1e-9)
    yield Comparison(tool, f"{what}, score", score, board[0], _DRAWS)
    yield Comparison(tool, f"{what}, band from", band.low, board[1], _DRAWS)
    yield Comparison(tool, f"{what}, band to", band.high, board[2], _DRAWS)
    yield Comparison(tool, f"{what}, score at equal style", at_style.value, controlled[0], _DRAWS)


def _feature_gap(outcomes: GameOutcomes, features: Array, theirs: Sequence[Sequence[Any]]) -> float:
    """The largest difference of a feature of a battle; infinite where the battles differ."""
    ours: list[tuple[Any, ...]] = sorted(
        (outcomes.models[int(model)], outcomes.uids[int(question)], *map(float, row))
        for model, question, row, copies in zip(
            outcomes.model, outcomes.question, features, outcomes.copies, strict=True
        )
        for _ in range(int(copies))
    )
    given: list[tuple[Any, ...]] = sorted(map(tuple, theirs))
    if [row[:2] for row in ours] != [row[:2] for row in given]:
        return float("inf")
    gaps: list[float] = [
        abs(mine - other)
        for one, two in zip(ours, given, strict=True)
        for mine, other in zip(one[2:], two[2:], strict=True)
    ]
    return max(gaps)
