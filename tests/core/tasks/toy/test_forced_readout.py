"""The shipped seed model under a forced readout: a real judge that writes its own lines, too."""

from collections.abc import Iterator
from statistics import fmean

import pytest

from meta_reward_core.engines.base import SamplingParams
from meta_reward_core.engines.transformers import TransformersEngine, load_transformers_engine
from meta_reward_core.evaluation.scorecard import Measurement
from meta_reward_core.recipes.prompt_templates import load_template
from meta_reward_core.storage.records import Readout
from meta_reward_core.tasks.protocol import ItemResult
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from meta_reward_core.tasks.toy.evaluation import measure_judge, measure_meta_judge, measure_model

GREEDY = SamplingParams(0.0, 1.0, 48)


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersEngine]:
    loaded = load_transformers_engine(
        get_shipped_seed_model(), dtype="float32", device="cpu", threads=2, max_batch_tokens=65_536,
        max_model_len=None,
    )  # fmt: skip
    yield loaded
    loaded.close()


def measure(
    engine: TransformersEngine, readout: Readout, sampling: SamplingParams = GREEDY
) -> dict[str, float | None]:
    found = measure_judge(
        engine,
        items=16,
        judgments=1,
        sampling=sampling,
        template=load_template("miniature_judge"),
        seed=1,
        readout=readout,
    )
    return {name: value for name, value, _ in found}


def test_forced_it_says_what_it_says_freely(engine: TransformersEngine) -> None:
    """Greedily: the most probable score after its own reasons is the one that it writes."""
    free, forced = measure(engine, "free"), measure(engine, "forced")
    assert free["parse_rate"] == forced["parse_rate"] == 1
    for name in ("single_judgment_exact", "mean_score", "order_agreement"):
        assert forced[name] == free[name]


def test_a_limit_that_cuts_its_reasons_off_leaves_no_score_freely_and_one_when_forced(
    engine: TransformersEngine,
) -> None:
    short = SamplingParams(0.0, 1.0, 12)
    assert measure(engine, "free", short)["parse_rate"] == 0
    forced = measure(engine, "forced", short)
    assert forced["parse_rate"] == 1
    assert forced["mean_score"] is not None


def test_an_expected_score_orders_answers_about_as_a_drawn_one(engine: TransformersEngine) -> None:
    expected = measure(engine, "expected")["order_agreement"]
    sampled = measure(engine, "forced")["order_agreement"]
    assert expected is not None
    assert sampled is not None
    assert abs(expected - sampled) < 0.1


def test_its_verdicts_can_be_forced(engine: TransformersEngine) -> None:
    found = {
        name: value
        for name, value, _ in measure_meta_judge(
            engine,
            comparisons=24,
            sampling=GREEDY,
            template=load_template("miniature_meta_judge"),
            seed=1,
            readout="forced",
        )
    }
    assert found["accuracy"] is not None
    assert found["accuracy"] > 0.7


def test_single_items_add_up_to_what_is_measured(engine: TransformersEngine) -> None:
    """Of the order agreement only about: an item without a scored judgment is in no pair."""
    found = measure_model(
        engine, "M0", prompts=4, judge_items=6, judgments=2, comparisons=4, actor=GREEDY,
        judge=GREEDY, meta_judge=GREEDY, judge_template=load_template("miniature_judge"),
        meta_judge_template=load_template("miniature_meta_judge"), seed=1,
    )  # fmt: skip
    by_item: dict[str, list[float]] = {}
    for result in found:
        if isinstance(result, ItemResult):
            assert result.value is not None
            by_item.setdefault(result.metric, []).append(result.value)
    measured = {
        f"{one.subject}.{one.metric}": one.value
        for one in found
        if isinstance(one, Measurement) and one.basis == "oracle"
    }
    assert by_item.keys() == {
        *("actor.true_quality", "actor.true_quality_greedy"),
        *("actor.win_rate", "actor.length_chars", "judge.points_per_10_words"),
        *("judge.single_judgment_exact", "judge.order_agreement", "meta_judge.accuracy"),
    }
    for metric in by_item.keys() - {"judge.order_agreement"}:
        assert fmean(by_item[metric]) == pytest.approx(measured[metric])
