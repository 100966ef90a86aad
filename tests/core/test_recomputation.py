"""Everything between judging and training, computed again from the Parquet files alone.

Nothing of the method is imported: pandas-like loops, statistics and scipy, written from the
paper's text. What the files say and what this says must be the same pairs. Of the experiment only
the numbers of its recipe are read. With a script that answers, with one whose judgments the token
limit often cuts off, and with a real model.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize, root

from meta_reward_core.planning.engine_loading import make_stage_resources
from meta_reward_core.planning.experiment_request import ExperimentRequest
from meta_reward_core.planning.experiment_setup import open_or_create
from meta_reward_core.storage.roots import StorageRoots
from tests.core.scripted_world import (
    begin,
    long_winded_reply,
    make_scripted_resources,
    run_before_training,
)

Row = dict[str, Any]

ELO_TOLERANCE = 1e-8
"""Nats. Rounding of about 1e-15 in the gradient is magnified by at most 1 / (2 prior) = 5000."""
EQUAL = 1e-7
"""Nats. Ratings that a battle set apart differ by far more, and equal ones by ELO_TOLERANCE."""
SMALL = ("sample.prompts=16", "prompts_per_shard=6", "actor.samples=5", "judge.samples=6")


@dataclass(frozen=True)
class Rule:
    """What the recipe says of pairs in the first iteration; inf where it says nothing."""

    prompts: int
    rho: float
    max_chars: float
    max_judgments: float
    max_judgment_chars: float
    prior: float


def rule_of(iteration: Path) -> Rule:
    recipe = json.loads((iteration.parent / "experiment.json").read_text())["recipe"]
    pairing, meta_judge = recipe["pairing"], recipe["meta_judge"]

    def first(value: Any) -> float:
        number = value[0] if isinstance(value, list) else value
        return math.inf if number is None else number

    return Rule(
        prompts=recipe["sample"]["prompts"],
        rho=first(pairing["rho"]),
        max_chars=first(pairing["max_chosen_chars"]),
        max_judgments=first(meta_judge["max_judgments"]),
        max_judgment_chars=first(meta_judge["max_chosen_judgment_chars"]),
        prior=meta_judge["elo_prior"],
    )


def run_script(root: Path) -> Path:
    run_before_training(begin(root).build_context(1), make_scripted_resources(root))
    return root / "scripted" / "iteration-1"


def run_cut_off(root: Path) -> Path:
    meta_judge = {"max_judgments": None, "max_chosen_judgment_chars": 90}
    experiment = begin(root, meta_judge=meta_judge)
    run_before_training(
        experiment.build_context(1), make_scripted_resources(root, long_winded_reply)
    )
    return root / "scripted" / "iteration-1"


def run_real_model(root: Path) -> Path:
    roots = StorageRoots(str(root), root / "models", root / "scratch")
    request = ExperimentRequest("real", recipe="smoke", changes=SMALL)
    experiment = open_or_create(request, roots, say=lambda text: None)
    resources = make_stage_resources(experiment, roots, number=1)
    run_before_training(experiment.build_context(1), resources)
    resources.release_engine()
    return root / "real" / "iteration-1"


@pytest.fixture(
    scope="module",
    params=[run_script, run_cut_off, run_real_model],
    ids=["script", "cut off", "real model"],
)
def iteration(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = request.param(tmp_path_factory.mktemp("recomputation"))
    return made


def rows(iteration: Path, table: str) -> list[Row]:
    parts = sorted((iteration / table).glob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def by(key: str, found: list[Row]) -> dict[str, list[Row]]:
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in found:
        groups[row[key]].append(row)
    return groups


def test_scores_are_the_mean_and_population_variance_of_the_valid_judgments(
    iteration: Path,
) -> None:
    judgments = by("response_id", rows(iteration, "judgments"))
    for score in rows(iteration, "scores"):
        points = [j["score"] for j in judgments[score["response_id"]] if j["score"] is not None]
        assert score["valid"] == len(points)
        assert score["mean"] == pytest.approx(np.mean(points), abs=1e-12)
        assert score["variance"] == pytest.approx(np.var(points), abs=1e-12)


def test_the_actor_pairs_on_disk_are_exactly_those_of_the_papers_rule(iteration: Path) -> None:
    responses = {row["response_id"]: row for row in rows(iteration, "responses")}
    rule, expected = rule_of(iteration), {}
    for prompt_id, scores in by("prompt_id", rows(iteration, "scores")).items():
        pair = actor_pair_by_the_rule(scores, responses, rule)
        if pair is not None:
            expected[prompt_id] = pair
    found = {
        row["prompt_id"]: (row["chosen_response_id"], row["rejected_response_id"])
        for row in rows(iteration, "actor_pairs")
    }
    assert found == expected
    assert len(found) > 5, "the rule must have had something to decide"
    for row in rows(iteration, "actor_pairs"):
        assert row["chosen"][0]["content"] == responses[row["chosen_response_id"]]["text"]
        assert row["rejected"][0]["content"] == responses[row["rejected_response_id"]]["text"]


def actor_pair_by_the_rule(
    scores: list[Row], responses: dict[str, Row], rule: Rule
) -> tuple[str, str] | None:
    means = {s["response_id"]: s["mean"] for s in scores if s["mean"] is not None}
    if len(means) < 2:
        return None
    high, low = max(means.values()), min(means.values())
    if math.isclose(high, low, abs_tol=1e-9):
        return None
    wide = rule.rho * (high - low)
    top = [i for i, mean in means.items() if mean >= high - wide - 1e-9]
    bottom = [i for i, mean in means.items() if mean <= low + wide + 1e-9]

    def order(response_id: str) -> tuple[int, int]:
        return len(responses[response_id]["text"]), responses[response_id]["sample"]

    whole = [i for i in top if responses[i]["finish_reason"] == "stop"]
    if not whole:
        return None
    chosen = min(whole, key=order)
    rejected = min(bottom, key=lambda i: (-order(i)[0], order(i)[1]))
    if chosen == rejected or means[chosen] <= means[rejected] or order(chosen)[0] > rule.max_chars:
        return None
    return chosen, rejected


def test_the_ratings_maximise_the_papers_likelihood_to_high_precision(iteration: Path) -> None:
    """Scipy finds the same optimum from the battles alone, and there the gradient vanishes."""
    on_disk = by("response_id", rows(iteration, "ratings"))
    recomputed = dict(elo_from_battles(iteration))
    assert recomputed.keys() == on_disk.keys()
    for response_id, expected in recomputed.items():
        found = {row["judgment_id"]: row["elo"] for row in on_disk[response_id]}
        assert found == pytest.approx(expected, rel=0, abs=ELO_TOLERANCE)


def elo_from_battles(iteration: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """By response, the rating of each judgment that battled; nothing of `ratings` is read."""
    prior = rule_of(iteration).prior
    for response_id, (names, battles) in battle_matrices(iteration):
        best = maximise(battles, prior)
        assert np.abs(gradient(battles, best, prior)).max() < 1e-12
        yield response_id, dict(zip(names, best - best.mean(), strict=True))


def battle_matrices(iteration: Path) -> Iterator[tuple[str, tuple[list[str], np.ndarray]]]:
    w1, w2 = weights(iteration)
    for response_id, fought in by("response_id", rows(iteration, "battles")).items():
        names = sorted({battle["first_judgment_id"] for battle in fought})
        place = {name: index for index, name in enumerate(names)}
        matrix = np.zeros((len(names), len(names)))
        for battle in fought:
            m, n = place[battle["first_judgment_id"]], place[battle["second_judgment_id"]]
            if battle["verdict"] == "A":
                matrix[m, n] += w1
            if battle["verdict"] == "B":
                matrix[n, m] += w2
        yield response_id, (names, matrix)


def weights(iteration: Path) -> tuple[float, float]:
    verdicts = [battle["verdict"] for battle in rows(iteration, "battles")]
    first, second = verdicts.count("A"), verdicts.count("B")
    assert min(first, second) > 0
    return second / (first + second), first / (first + second)


def gradient(battles: np.ndarray, elo: np.ndarray, prior: float) -> np.ndarray:
    """d/de_m of sum B[m,n] log sigmoid(e_m - e_n) - prior * sum e^2."""
    gained = np.asarray(battles * chances(elo).T)
    return np.asarray(gained.sum(axis=1) - gained.sum(axis=0) - 2 * prior * elo)


def hessian(battles: np.ndarray, elo: np.ndarray, prior: float) -> np.ndarray:
    likely = chances(elo)
    weights = (battles + battles.T) * likely * likely.T
    return np.asarray(weights - np.diag(weights.sum(axis=1) + 2 * prior))


def chances(elo: np.ndarray) -> np.ndarray:
    """Of m to win over n: sigmoid(e_m - e_n)."""
    return np.asarray(1 / (1 + np.exp(elo[None, :] - elo[:, None])))


def maximise(battles: np.ndarray, prior: float) -> np.ndarray:
    """A quasi-Newton search for the maximum, then the root of its gradient near by."""

    def loss(elo: Any) -> Any:
        gaps = elo[:, None] - elo[None, :]
        return (battles * np.logaddexp(0, -gaps)).sum() + prior * (elo**2).sum()

    def slope(elo: Any) -> Any:
        return -gradient(battles, elo, prior)

    def bend(elo: Any) -> Any:
        return -hessian(battles, elo, prior)

    start = np.zeros(len(battles))
    near: Any = minimize(loss, start, jac=slope, method="BFGS")
    found: Any = root(slope, near.x, jac=bend, options={"xtol": 1e-15})
    return np.asarray(found.x)


def test_the_judge_pairs_on_disk_are_exactly_best_against_worst(iteration: Path) -> None:
    judgments = {row["judgment_id"]: row for row in rows(iteration, "judgments")}
    longest, expected = rule_of(iteration).max_judgment_chars, {}
    for _, elo in elo_from_battles(iteration):
        high, low = max(elo.values()), min(elo.values())
        top = [name for name in elo if elo[name] >= high - EQUAL]
        whole = [name for name in top if judgments[name]["finish_reason"] != "length"]
        if not whole:
            continue
        best = first_sample(whole, judgments)
        worst = first_sample([name for name in elo if elo[name] <= low + EQUAL], judgments)
        if high - low <= EQUAL or len(judgments[best]["text"]) > longest:
            continue
        if judgments[best]["text"] != judgments[worst]["text"]:
            expected[judgments[best]["prompt_id"]] = (best, worst)
    found = {
        row["prompt_id"]: (row["chosen_judgment_id"], row["rejected_judgment_id"])
        for row in rows(iteration, "judge_pairs")
    }
    assert found == expected
    assert len(found) > 5


def first_sample(names: list[str], judgments: dict[str, Row]) -> str:
    return min(names, key=lambda name: int(judgments[name]["sample"]))


def test_the_response_that_is_meta_judged_varies_most_and_meets_every_order_once(
    iteration: Path,
) -> None:
    scores = by("prompt_id", rows(iteration, "scores"))
    judgments = by("response_id", rows(iteration, "judgments"))
    most = rule_of(iteration).max_judgments
    for prompt_id, fought in by("prompt_id", rows(iteration, "battles")).items():
        [response_id] = {battle["response_id"] for battle in fought}
        variance = {score["response_id"]: score["variance"] for score in scores[prompt_id]}
        assert variance[response_id] >= max(variance.values()) - 1e-9
        texts = {j["text"] for j in judgments[response_id] if j["score"] is not None}
        orders = {(b["first_judgment_id"], b["second_judgment_id"]) for b in fought}
        meeting = min(len(texts), most)
        assert len(fought) == len(orders) == meeting * (meeting - 1)


def test_pairs_and_dropped_add_up_to_the_prompts_for_each_kind(iteration: Path) -> None:
    prompts = {row["prompt_id"] for row in rows(iteration, "prompts")}
    assert len(prompts) == rule_of(iteration).prompts
    for kind in ("actor", "judge"):
        paired = [row["prompt_id"] for row in rows(iteration, f"{kind}_pairs")]
        dropped = [r["prompt_id"] for r in rows(iteration, "dropped") if r["kind"] == kind]
        assert sorted(paired + dropped) == sorted(prompts)


def test_every_judge_pair_trains_on_the_prompt_that_produced_its_judgments(
    iteration: Path,
) -> None:
    instructions = {row["prompt_id"]: row["text"] for row in rows(iteration, "prompts")}
    responses = {row["response_id"]: row["text"] for row in rows(iteration, "responses")}
    for pair in rows(iteration, "judge_pairs"):
        [message] = pair["prompt"]
        assert instructions[pair["prompt_id"]] in message["content"]
        assert responses[pair["response_id"]] in message["content"]


def test_a_manifest_promises_every_part_and_nothing_else(iteration: Path) -> None:
    promised = {
        part["path"]
        for manifest in (iteration / "manifests").glob("*.json")
        for part in json.loads(manifest.read_text())["parts"]
    }
    on_disk = {str(path.relative_to(iteration)) for path in iteration.rglob("*.parquet")}
    of_probe = {path for path in on_disk if path.startswith("probe/")}
    assert on_disk - of_probe == promised
