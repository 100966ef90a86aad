"""Estimates: a line through measured shards, and a calculation for named hardware."""

import pytest

from meta_reward_core.planning.cost_estimate import (
    MeasuredThroughput,
    ShardCost,
    StageRate,
    fit_rate,
    plan_iteration,
)
from meta_reward_core.planning.gpu_estimate import (
    DEVICES,
    LLAMA3_8B,
    IterationTime,
    ModelSize,
    StageTime,
    plan_on_hardware,
)
from meta_reward_core.planning.shard_schedule import (
    StageSpan,
    choose_engines_ahead,
    choose_shard_size,
    compute_least_seconds,
    select_stage,
    simulate_shards,
)
from meta_reward_core.planning.shard_size import (
    EngineCapacity,
    estimate_shard_size,
    freeze_shard_size,
)
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe

PAPER = load_recipe("paper-llama3-8b")
H100 = DEVICES["h100"]


def test_the_line_through_measured_shards_is_found() -> None:
    """30 seconds for each shard and 200 tokens a second, without noise."""
    shards = [ShardCost(10, tokens, 30 + tokens / 200) for tokens in (1000, 2000, 4000, 8000)]
    rate = fit_rate(shards)
    assert rate is not None
    assert rate.seconds_per_shard == pytest.approx(30)
    assert rate.tokens_per_second == pytest.approx(200)
    assert rate.tokens_per_call == 15_000 / 40


@pytest.mark.parametrize(
    "shards",
    [
        [ShardCost(10, 1000, 10.0)] * 3,
        [ShardCost(10, tokens, 10.0) for tokens in (1000, 1010, 990, 1000)],
        [ShardCost(10, tokens, tokens / 50 - 5) for tokens in (1000, 2000, 3000, 4000)],
    ],
    ids=["too few", "all of a size", "a shard cannot take less than nothing"],
)
def test_where_no_line_can_be_told_time_goes_by_tokens_alone(shards: list[ShardCost]) -> None:
    rate = fit_rate(shards)
    seconds, tokens = sum(one.seconds for one in shards), sum(one.tokens for one in shards)
    assert rate == StageRate(tokens / (10 * len(shards)), tokens / seconds, 0.0)


def test_nothing_finished_gives_no_rate() -> None:
    assert fit_rate([]) is None
    assert fit_rate([ShardCost(0, 0, 3.0)]) is None


def test_what_a_shard_costs_by_itself_is_paid_for_each_shard() -> None:
    """5,000 prompts; 35,000 replies of 10 tokens at 100 a second, 7 seconds a shard."""
    [plan] = [
        one
        for one in plan_iteration(
            PAPER, 1, measured=MeasuredThroughput("x", {"generate": StageRate(10, 100, 7.0)})
        )
        if one.stage == "generate"
    ]
    shards = -(-PAPER.sample.prompts // PAPER.shard_size)
    assert plan.seconds == pytest.approx(3500 + 7 * shards)


def test_ten_times_the_workers_draw_faster_and_train_no_faster() -> None:
    few = plan_on_hardware(PAPER, 1, device=H100, devices=8, workers=1)
    many = plan_on_hardware(PAPER, 1, device=H100, devices=8, workers=10)
    assert (few.engines, many.engines) == (8, 80)
    for one, ten in zip(few.stages, many.stages, strict=True):
        assert ten.device_hours == pytest.approx(one.device_hours)
    assert _train(many).begin_seconds < _train(few).begin_seconds / 2, "20 shards bound it"
    spent = [one.end_seconds - one.begin_seconds for one in (_train(few), _train(many))]
    assert spent[0] == pytest.approx(spent[1])


def test_a_plan_chooses_an_open_shard_size() -> None:
    plan = plan_on_hardware(
        PAPER.model_copy(update={"prompts_per_shard": None}), 1, device=H100, devices=8, workers=1
    )
    assert plan.idle_share <= 0.02
    assert all(stage.shards >= 5000 / 64 for stage in plan.stages if stage.stage != "train")


def _train(plan: IterationTime) -> StageTime:
    return next(stage for stage in plan.stages if stage.stage == "train")


def test_a_plan_on_hardware_knows_overlap_and_the_tail() -> None:
    """20 shards on 8 engines leave some idle; the advised size leaves less than a fiftieth."""
    plan = plan_on_hardware(PAPER, 1, device=H100, devices=8, workers=1)
    spans = {stage.stage: stage for stage in plan.stages}
    assert spans["judge"].begin_seconds < spans["generate"].end_seconds
    assert plan.wall_seconds == spans["train"].end_seconds
    busy = sum(spans[name].device_hours for name in ("generate", "judge", "meta_judge")) * 3600
    drawing = spans["train"].begin_seconds
    assert plan.idle_share == pytest.approx(1 - busy / (8 * drawing), abs=0.05)
    assert 0.02 < plan.idle_share < 0.2
    assert plan.advised_shard_size is not None
    changed = PAPER.model_copy(update={"prompts_per_shard": plan.advised_shard_size})
    better = plan_on_hardware(changed, 1, device=H100, devices=8, workers=1)
    assert better.idle_share <= 0.02
    assert better.wall_seconds < plan.wall_seconds
    assert better.advised_shard_size is None
    wide = PAPER.model_copy(
        update={"engine": PAPER.engine.model_copy(update={"tensor_parallel_size": 8})}
    )
    assert plan_on_hardware(wide, 1, device=H100, devices=8, workers=1).idle_share < 1e-9


def test_shards_are_handed_out_by_the_rule_of_the_runner() -> None:
    """By hand: a of 1 s, b of 2 s, two shards, two engines: a0 a1 | b0 b1, 3 s, nothing idle."""
    times = simulate_shards({"generate": 1.0, "judge": 2.0}, shards=2, engines=2, variation=0.0)
    assert times.spans == {"generate": StageSpan(0.0, 1.0), "judge": StageSpan(1.0, 3.0)}
    assert (times.seconds, times.idle_share) == (3.0, 0.0)
    three = simulate_shards({"generate": 1.0, "judge": 2.0}, shards=3, engines=2, variation=0.0)
    # a0 a1 | a2 b0 | b1 from 2, b2 from 3: 5 s, 9 of 10 engine-seconds busy
    assert three.spans["judge"] == StageSpan(1.0, 5.0)
    assert three.idle_share == pytest.approx(0.1)
    assert choose_shard_size({"generate": 1.0}, prompts=5, engines=8) == 1


def test_training_takes_what_its_operations_take() -> None:
    """Iteration 3 of the paper: 10,000 actor sequences of 200 + 512 tokens, ten epochs."""
    train = _train(plan_on_hardware(PAPER, 3, device=H100, devices=8, workers=1))
    tokens = 10_000 * (200 + PAPER.actor.max_new_tokens / 2)
    operations = LLAMA3_8B.parameters * tokens * (8 * PAPER.training.epochs + 2)
    assert train.device_hours == pytest.approx(operations / (989e12 * 0.4) / 3600)


def test_a_model_that_does_not_fit_is_said_to_need_more_devices() -> None:
    with pytest.raises(ValueError, match="use more devices per worker"):
        plan_on_hardware(PAPER, 1, device=H100, devices=1, workers=1, model=ModelSize(70e9, 1e5))


def test_training_takes_what_each_row_has_taken_in_each_epoch() -> None:
    """2 pairs of 5,000 prompts, 10 epochs: 3,125 steps of 32 rows, at .5 s a row."""
    plans = plan_iteration(PAPER, 1, measured=MeasuredThroughput("x", seconds_per_row=0.5))
    [train] = [one for one in plans if one.stage == "train"]
    assert train.calls == 3125
    assert train.seconds == pytest.approx(50_000)
    assert (train.basis, train.at_most) == ("measured", True)


def test_how_long_training_takes_is_not_invented() -> None:
    [train] = [one for one in plan_iteration(PAPER, 1) if one.stage == "train"]
    assert train.seconds is None


def test_some_engines_work_ahead_where_the_last_stage_is_long() -> None:
    """By hand: a 1 s, b 3 s, four shards, two engines; 16 s of work, so at least 8 s.

    Earliest first: a0 a1 | a2 a3 | b0 b1 from 2 | b2 b3 from 5 to 8. One engine ahead is no better.
    With three shards, 12 s of work: earliest first ends at 1.5 rounds too late.
    a0 a1 | a2 b0 | b1 from 2, b2 from 4 to 7; with one ahead: a0 a1 | b0 a2 | b1 from 2, b2 from 4.
    """
    assert choose_engines_ahead({"generate": 1.0, "judge": 3.0}, shards=4, engines=2) == 0
    # a 2, b 5, c 14 and 20 shards on 8 engines: long shards at the end of few engines cost most.
    stages = {"generate": 1.0, "judge": 1.0, "meta_judge": 4.0}
    ahead = choose_engines_ahead(stages, shards=20, engines=8)
    assert ahead == 6
    times = simulate_shards(stages, shards=20, engines=8, variation=0.0)
    # 20 x 6 s / 8 = 15 s: not a second is lost. Earliest first: 5 s, then three rounds of 4 s.
    assert (times.seconds, times.idle_share) == (15.0, 0.0)


def test_an_engine_ahead_takes_the_latest_stage_and_others_the_earliest() -> None:
    assert select_stage(["generate", "judge"], [3, 1], engines_ahead=2) == "judge"
    assert select_stage(["generate", "judge"], [3, 2], engines_ahead=2) == "generate"
    assert select_stage(["judge"], [2], engines_ahead=0) == "judge"


@pytest.mark.parametrize(
    "seconds, engines, least",
    [
        ([60.0] * 60, 8, 480.0),  # 7.5 shards an engine: some engine has 8
        ([3.0, 3.0, 3.0], 2, 6.0),
        ([5.0, 1.0, 1.0], 3, 5.0),
        ([2.0] * 4, 2, 4.0),
    ],
)
def test_no_order_of_whole_shards_is_faster(
    seconds: list[float], engines: int, least: float
) -> None:
    assert compute_least_seconds(seconds, engines=engines) == least


def _open(prompts: int) -> Recipe:
    sample = PAPER.sample.model_copy(update={"prompts": prompts})
    return PAPER.model_copy(update={"prompts_per_shard": None, "sample": sample})


def test_an_open_shard_size_is_chosen_for_the_engines_and_a_given_one_is_kept() -> None:
    for engines in (2, 8, 16):
        found = estimate_shard_size(_open(5000), engines=engines, measured=MeasuredThroughput())
        assert found.idle_share <= 0.02
        assert found.prompts <= 64
        assert found.chosen
    eight = EngineCapacity(lambda _: 8)
    frozen = freeze_shard_size(_open(1000), eight)
    assert frozen.prompts_per_shard is not None
    assert frozen.prompts_per_shard < 64
    assert freeze_shard_size(PAPER, eight).prompts_per_shard == 250
    assert freeze_shard_size(_open(1000), EngineCapacity()).prompts_per_shard == 64
    assert freeze_shard_size(_open(3), eight).prompts_per_shard == 1


def test_a_given_shard_size_that_leaves_engines_idle_says_which_one_would_not() -> None:
    found = estimate_shard_size(PAPER, engines=8, measured=MeasuredThroughput())
    assert found.advised is not None
    assert found.describe() == (
        f"20 shards of 250 prompts a stage, on 8 engines: idle for about {found.idle_share:.1%} of "
        f"the time before training; less with prompts_per_shard={found.advised}"
    )
    better = PAPER.model_copy(update={"prompts_per_shard": found.advised})
    assert estimate_shard_size(better, engines=8, measured=MeasuredThroughput()).advised is None


def test_shards_that_cost_time_of_their_own_are_not_made_too_small() -> None:
    """10 tokens a second and 600 s a shard: one prompt a shard would double the time."""
    rates = {stage: StageRate(10, 1000, 600.0) for stage in ("generate", "judge", "meta_judge")}
    found = estimate_shard_size(_open(200), engines=8, measured=MeasuredThroughput("x", rates))
    assert found.prompts > 1
