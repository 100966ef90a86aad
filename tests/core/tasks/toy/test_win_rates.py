"""The miniature's win rates: by the truth and by the model's own judge, against fixed answers."""

import re
from pathlib import Path

import pytest

import meta_reward_core
from meta_reward_core.engines.base import Conversation, SamplingParams
from meta_reward_core.engines.scripted import ScriptedEngine
from meta_reward_core.recipes.prompt_templates import load_template
from meta_reward_core.tasks.toy import task
from meta_reward_core.tasks.toy.win_rates import make_baseline_responses, measure_wins

SAMPLING = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=8)
INSTRUCTIONS = task.sample_held_out_prompts(12, seed=3)


def right_answer(instruction: str) -> str:
    parsed = task.parse_instruction(instruction)
    assert parsed is not None
    language, sources = parsed
    return " ".join(task.translate_word(language, source) for source in sources)


RIGHT = [right_answer(instruction) for instruction in INSTRUCTIONS]
WRONG = [" ".join(text.split()[:2]) for text in RIGHT]


def likes_short_answers(conversation: Conversation, sample: int, seed: int) -> str:
    """A judge that has it the wrong way round: 5 points for what holds fewer words."""
    short = any(f"{answer}\n" in conversation[0]["content"] + "\n" for answer in WRONG)
    whole = any(answer in conversation[0]["content"] for answer in RIGHT)
    return "Score: 1" if whole else f"Score: {5 if short else 3}"


def wins(answers: list[str], baseline: list[str], script: object) -> dict[tuple[str, str], float]:
    found = measure_wins(
        ScriptedEngine(script),  # type: ignore[arg-type]
        INSTRUCTIONS,
        answers,
        baseline,
        judgments=2,
        sampling=SAMPLING,
        template=load_template("miniature_judge"),
        seed=1,
    )
    return {(basis, name): value for name, value, _, basis in found if value is not None}


def test_a_judge_that_is_wrong_reports_the_opposite_of_the_truth() -> None:
    found = wins(RIGHT, WRONG, likes_short_answers)
    assert found["oracle", "win_rate"] == 100
    assert found["self_judged", "win_rate"] == 0
    assert found["oracle", "win_rate.french"] == 100


def test_the_baselines_own_answers_draw() -> None:
    found = wins(WRONG, WRONG, likes_short_answers)
    assert found["oracle", "win_rate"] == found["self_judged", "win_rate"] == 50


def test_a_prompt_that_the_judge_did_not_score_is_in_no_self_judged_rate() -> None:
    def mute(conversation: Conversation, sample: int, seed: int) -> str:
        return "no score" if RIGHT[0] in conversation[0]["content"] else "Score: 2"

    found = measure_wins(
        ScriptedEngine(mute),
        INSTRUCTIONS,
        RIGHT,
        WRONG,
        judgments=1,
        sampling=SAMPLING,
        template=load_template("miniature_judge"),
        seed=1,
    )
    counts = {(basis, name): count for name, _, count, basis in found}
    assert counts["oracle", "win_rate"] == 12
    assert counts["self_judged", "win_rate"] == 11


def test_a_judge_that_nobody_can_read_has_no_rate() -> None:
    found = wins(RIGHT, WRONG, lambda conversation, sample, seed: "nothing")
    assert ("self_judged", "win_rate") not in found
    assert found["oracle", "win_rate"] == 100


def test_the_baselines_answers_are_the_same_for_everybody() -> None:
    assert make_baseline_responses(INSTRUCTIONS, seed=7) == make_baseline_responses(
        INSTRUCTIONS, seed=7
    )
    assert make_baseline_responses(INSTRUCTIONS, seed=7) != make_baseline_responses(
        INSTRUCTIONS, seed=8
    )


ALLOWED: dict[str, set[str]] = {"evaluation": set(), "win_rates": set(), "ground_truth": set()}


@pytest.mark.parametrize("module", ALLOWED)
def test_only_the_stage_that_evaluates_and_the_seeds_gate_import_the_truth(module: str) -> None:
    root = Path(meta_reward_core.__file__).parent
    wanted = re.compile(
        rf"^\s*(from|import) meta_reward_core\.tasks\.toy(\.{module}\b| import .*\b{module}\b)",
        re.MULTILINE,
    )
    knowing = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if wanted.search(path.read_text())
    }
    assert knowing, "the pattern finds nothing at all"
    assert {name for name in knowing if not name.startswith("tasks/toy/")} <= ALLOWED[module]


def test_a_rate_that_the_penalty_alone_sets_to_50_is_read_without_it() -> None:
    """7 of 12 won by answers of the baseline's length: 58.3 at equal length, too.

    Cross-validation on 12 prompts chooses a lasso that removes the constant, and reads 50.
    """
    pairs = [(text, text[::-1]) for text in RIGHT]
    won = [pair if n in {0, 1, 3, 4, 6, 7, 9} else pair[::-1] for n, pair in enumerate(pairs)]
    found = wins([model for model, _ in won], [other for _, other in won], likes_short_answers)
    assert found["oracle", "win_rate"] == pytest.approx(58.33, abs=0.01)
    assert found["oracle", "length_controlled_win_rate"] == pytest.approx(58.33, abs=0.01)
