"""Everything between judging and training, computed again from the Parquet files alone.

Nothing of the method is imported: pandas-like loops, statistics and scipy, written from the
paper's text. What the files say and what this says must be the same pairs.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize

from tests.core.scripted_world import begin, run_before_training, scripted_tools

Row = dict[str, Any]
RHO, MAX_CHARS, MAX_JUDGMENT_CHARS, PRIOR = 0.3, 70, 60, 1e-4


@pytest.fixture(scope="module")
def iteration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recomputation")
    experiment = begin(root)
    run_before_training(experiment.context(1), scripted_tools(root))
    return root / "scripted" / "iteration-1"


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
    expected = {}
    for prompt_id, scores in by("prompt_id", rows(iteration, "scores")).items():
        pair = actor_pair_by_the_rule(scores, responses)
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


def actor_pair_by_the_rule(scores: list[Row], responses: dict[str, Row]) -> tuple[str, str] | None:
    means = {s["response_id"]: s["mean"] for s in scores if s["mean"] is not None}
    if len(means) < 2:
        return None
    high, low = max(means.values()), min(means.values())
    if math.isclose(high, low, abs_tol=1e-9):
        return None
    top = [i for i, mean in means.items() if mean >= (1 - RHO) * high + RHO * low - 1e-9]
    bottom = [i for i, mean in means.items() if mean <= (1 - RHO) * low + RHO * high + 1e-9]

    def order(response_id: str) -> tuple[int, int]:
        return len(responses[response_id]["text"]), responses[response_id]["sample"]

    chosen = min((i for i in top if responses[i]["finish_reason"] == "stop"), key=order)
    rejected = min(bottom, key=lambda i: (-order(i)[0], order(i)[1]))
    if chosen == rejected or means[chosen] <= means[rejected] or order(chosen)[0] > MAX_CHARS:
        return None
    return chosen, rejected


def test_the_ratings_maximise_the_papers_likelihood_to_high_precision(iteration: Path) -> None:
    """The gradient of the penalised likelihood vanishes, and scipy finds the same optimum."""
    ratings = by("response_id", rows(iteration, "ratings"))
    matrices = dict(battle_matrices(iteration))
    assert matrices.keys() == ratings.keys()
    for response_id, (names, battles) in matrices.items():
        elo = {row["judgment_id"]: row["elo"] for row in ratings[response_id]}
        assert set(elo) >= set(names)
        found = np.array([elo[name] for name in names])
        best = maximise(battles)
        assert found == pytest.approx(best - best.mean(), abs=1e-5)
        assert np.abs(gradient(battles, found)).max() < 1e-9


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


def gradient(battles: np.ndarray, elo: np.ndarray) -> np.ndarray:
    """d/de_m of sum B[m,n] log sigmoid(e_m - e_n) - prior * sum e^2."""
    loses = 1 / (1 + np.exp(elo[:, None] - elo[None, :]))
    gained = np.asarray(battles * loses)
    return np.asarray(gained.sum(axis=1) - gained.sum(axis=0) - 2 * PRIOR * elo)


def maximise(battles: np.ndarray) -> np.ndarray:
    def loss_and_gradient(elo: np.ndarray) -> tuple[float, np.ndarray]:
        gaps = elo[:, None] - elo[None, :]
        loss = (battles * np.logaddexp(0, -gaps)).sum() + PRIOR * (elo**2).sum()
        return float(loss), -gradient(battles, elo)

    start = np.zeros(len(battles))
    options: Any = {"gtol": 1e-10, "maxiter": 10_000}
    found: Any = minimize(loss_and_gradient, start, jac=True, method="BFGS", options=options)
    return np.asarray(found.x)


def test_the_judge_pairs_on_disk_are_exactly_best_against_worst(iteration: Path) -> None:
    judgments = {row["judgment_id"]: row for row in rows(iteration, "judgments")}
    expected = {}
    for response_id, rated in by("response_id", rows(iteration, "ratings")).items():
        del response_id
        high = max(row["elo"] for row in rated)
        low = min(row["elo"] for row in rated)
        best = first_sample([r for r in rated if r["elo"] >= high - 1e-9], judgments)
        worst = first_sample([r for r in rated if r["elo"] <= low + 1e-9], judgments)
        if high - low <= 1e-9 or len(judgments[best]["text"]) > MAX_JUDGMENT_CHARS:
            continue
        if judgments[best]["text"] != judgments[worst]["text"]:
            expected[rated[0]["prompt_id"]] = (best, worst)
    found = {
        row["prompt_id"]: (row["chosen_judgment_id"], row["rejected_judgment_id"])
        for row in rows(iteration, "judge_pairs")
    }
    assert found == expected
    assert len(found) > 5


def first_sample(rated: list[Row], judgments: dict[str, Row]) -> str:
    return str(min((r["judgment_id"] for r in rated), key=lambda i: judgments[i]["sample"]))


def test_the_response_that_is_meta_judged_varies_most_and_meets_every_order_once(
    iteration: Path,
) -> None:
    scores = by("prompt_id", rows(iteration, "scores"))
    judgments = by("response_id", rows(iteration, "judgments"))
    for prompt_id, fought in by("prompt_id", rows(iteration, "battles")).items():
        [response_id] = {battle["response_id"] for battle in fought}
        variance = {score["response_id"]: score["variance"] for score in scores[prompt_id]}
        assert variance[response_id] >= max(variance.values()) - 1e-9
        texts = {j["text"] for j in judgments[response_id] if j["score"] is not None}
        orders = {(b["first_judgment_id"], b["second_judgment_id"]) for b in fought}
        assert len(fought) == len(orders) == len(texts) * (len(texts) - 1)


def test_pairs_and_dropped_add_up_to_the_prompts_for_each_kind(iteration: Path) -> None:
    prompts = {row["prompt_id"] for row in rows(iteration, "prompts")}
    assert len(prompts) == 20
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
    assert on_disk == promised
