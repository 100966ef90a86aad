"""Measure the judgments of `evaluate run judge` and `evaluate run labelled-pairs` in one table.

Reads the folders `SET-MODEL-READOUT` that the commands of docs/real_model.md write (SET is `oasst`
or `llmbar`), and writes one JSON file with metrics only, and a table. All readouts and models are
measured alike: a pair of responses that humans order counts 1 if the mean scores have that order,
and 1/2 if they are equal or absent, so a constant score gets exactly 50%. Intervals (95%) count the
judgments and pairs of a prompt as one cluster; those of correlations are bootstraps over prompts.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np

from meta_reward_core.data.tabular_io import read_rows
from meta_reward_core.evaluation.clustered_intervals import (
    compute_clustered_change_interval,
    compute_clustered_share_interval,
)
from meta_reward_core.evaluation.judge_metrics import compute_spearman
from meta_reward_core.evaluation.score_baselines import (
    FloatArray,
    measure_score_entropy,
    measure_shuffled_scores,
)
from meta_reward_core.tasks.labelled_pairs.benchmark import read_labelled_pairs

READOUTS: Final = ("free", "forced", "expected")
_RESAMPLES: Final = 2000

Response = tuple[str, str]
"""prompt_id, response_id"""
Estimate = dict[str, float | int | None]


@dataclass(frozen=True, slots=True)
class Reference:
    """Responses with human values (the higher the better), and their lengths."""

    values: Mapping[Response, float]
    characters: Mapping[Response, int]

    @property
    def pairs(self) -> list[tuple[Response, Response]]:
        """All pairs of a prompt that humans order, the better response first."""
        by_prompt: defaultdict[str, list[Response]] = defaultdict(list)
        for response in self.values:
            by_prompt[response[0]].append(response)
        return [
            (one, other) if self.values[one] > self.values[other] else (other, one)
            for responses in by_prompt.values()
            for one, other in combinations(responses, 2)
            if self.values[one] != self.values[other]
        ]


@dataclass(frozen=True, slots=True)
class Judged:
    """Judgments of one model with one readout."""

    rows: Sequence[Mapping[str, Any]]

    @property
    def scores(self) -> dict[Response, float]:
        """Mean of the readable scores of each response that has one."""
        found: defaultdict[Response, list[float]] = defaultdict(list)
        for row in self.rows:
            if row["score"] is not None:
                found[row["prompt_id"], row["response_id"]].append(row["score"])
        return {response: math.fsum(scores) / len(scores) for response, scores in found.items()}


def main() -> None:
    """Measure every folder that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="Folder of the results.")
    parser.add_argument("--llmbar", type=Path, required=True, help="File of labelled pairs.")
    parser.add_argument("--models", nargs="+", required=True, help="The first is the baseline.")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of metrics.")
    options = parser.parse_args()
    references = {
        "oasst": _read_ranked(options.folder),
        "llmbar": _read_pairs(options.llmbar),
    }
    found = [
        row
        for name, reference in references.items()
        for row in _measure_set(name, reference, options.folder, options.models)
    ]
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    _print_table(found)


def _read_ranked(folder: Path) -> Reference:
    values = {
        (row.read_name("prompt_id"), row.read_name("response_id")): row.read_number("score") or 0.0
        for row in read_rows(folder / "reference.jsonl")
    }
    characters = {
        (row.read_name("prompt_id"), row.read_name("response_id")): len(row.read_text("response"))
        for row in read_rows(folder / "responses.jsonl")
    }
    return Reference(values, characters)


def _read_pairs(path: Path) -> Reference:
    texts = {
        (item.item_id, f"{item.item_id}.{side}"): (text, float(side == item.values["better"]))
        for item in read_labelled_pairs(path)
        for side, text in enumerate(item.values["outputs"])
    }
    return Reference(
        {response: better for response, (_, better) in texts.items()},
        {response: len(text) for response, (text, _) in texts.items()},
    )


def _measure_set(
    name: str, reference: Reference, folder: Path, models: Sequence[str]
) -> list[dict[str, Any]]:
    lengths = {response: float(length) for response, length in reference.characters.items()}
    rows: list[dict[str, Any]] = [
        {"set": name, "judge": "longer response", **_measure_scores(lengths, reference)}
    ]
    for readout in READOUTS:
        baseline: dict[Response, float] | None = None
        for model in models:
            path = folder / f"{name}-{model}-{readout}" / "judgments.jsonl"
            if not path.exists():
                continue
            judged = Judged([json.loads(line) for line in path.read_text().splitlines()])
            row: dict[str, Any] = {"set": name, "judge": model, "readout": readout}
            row |= _measure_texts(judged) | _measure_scores(judged.scores, reference)
            if baseline is None:
                baseline = judged.scores
            else:
                row["accuracy_change"] = _measure_change(baseline, judged.scores, reference)
            rows.append(row)
    return rows


def _measure_texts(judged: Judged) -> dict[str, Any]:
    rows = judged.rows
    prompts = [row["prompt_id"] for row in rows]
    spread = [
        [value["probability"] for value in row["probabilities"]]
        for row in rows
        if row["probabilities"]
    ]
    by_prompt: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_prompt[row["prompt_id"]] += [] if row["score"] is None else [row["score"]]
    entropy = measure_score_entropy(by_prompt)
    return {
        "judgments": len(rows),
        "readable": _estimate_share([row["score"] is not None for row in rows], prompts),
        "cut_off": _estimate_share([row["finish_reason"] == "length" for row in rows], prompts),
        "mean_tokens": math.fsum(row["tokens"] for row in rows) / len(rows),
        "score_entropy_bits": _make_estimate(entropy.value, entropy.low, entropy.high, len(rows)),
        "mean_probabilities": np.mean(spread, axis=0).round(4).tolist() if spread else None,
        "mean_entropy_of_probabilities_bits": float(np.mean([_compute_entropy(p) for p in spread]))
        if spread
        else None,
    }


def _compute_entropy(probabilities: Sequence[float]) -> float:
    return -math.fsum(p * math.log2(p) for p in probabilities if p > 0)


def _measure_scores(scores: Mapping[Response, float], reference: Reference) -> dict[str, Any]:
    """Measure order, correlation and preference for length of the mean scores."""
    pairs = reference.pairs
    prompts = [better[0] for better, _ in pairs]
    length = reference.characters
    credits_ = _compute_credits(scores, pairs)
    measured: dict[str, Any] = {"accuracy": _estimate_share(credits_, prompts)}
    for name, sign in (("longer", 1), ("shorter", -1)):
        chosen = [
            place
            for place, (one, two) in enumerate(pairs)
            if sign * (length[one] - length[two]) > 0
        ]
        measured[f"accuracy_where_{name}_is_better"] = _estimate_share(
            [credits_[place] for place in chosen], [prompts[place] for place in chosen]
        )
    unequal = [
        pair
        for pair in pairs
        if len({length[one] for one in pair}) == 2 and scores.keys() >= {*pair}
    ]
    unequal = [pair for pair in unequal if scores[pair[0]] != scores[pair[1]]]
    measured["prefers_longer"] = _estimate_share(
        [(length[a] > length[b]) == (scores[a] > scores[b]) for a, b in unequal],
        [a[0] for a, _ in unequal],
    )
    measured["shuffled_accuracy"] = _shuffle(scores, pairs)
    measured["spearman"] = _correlate(scores, reference.values)
    measured["spearman_with_length"] = _correlate(scores, length)
    return measured


def _compute_credits(
    scores: Mapping[Response, float], pairs: Sequence[tuple[Response, Response]]
) -> list[float]:
    return [
        (float(np.sign(scores[good] - scores[bad])) + 1) / 2
        if good in scores and bad in scores
        else 0.5
        for good, bad in pairs
    ]


def _measure_change(
    before: Mapping[Response, float], after: Mapping[Response, float], reference: Reference
) -> Estimate:
    pairs = reference.pairs
    changes = [
        late - early
        for early, late in zip(
            _compute_credits(before, pairs), _compute_credits(after, pairs), strict=True
        )
    ]
    interval = compute_clustered_change_interval(changes, [better[0] for better, _ in pairs])
    mean = math.fsum(changes) / len(changes)
    return _make_estimate(mean, interval.low, interval.high, len(changes))


def _estimate_share(values: Sequence[float], prompts: Sequence[str]) -> Estimate:
    if not values:
        return _make_estimate(None, None, None, 0)
    interval = compute_clustered_share_interval([float(value) for value in values], prompts)
    return _make_estimate(math.fsum(values) / len(values), interval.low, interval.high, len(values))


def _shuffle(
    scores: Mapping[Response, float], pairs: Sequence[tuple[Response, Response]]
) -> Estimate:
    place = {response: number for number, response in enumerate(scores)}
    known = [(place[a], place[b]) for a, b in pairs if a in place and b in place]
    if not known:
        return _make_estimate(None, None, None, 0)
    good, bad = np.array(known).T

    def compute_accuracy(shuffled: FloatArray) -> FloatArray:
        signs: FloatArray = np.sign(shuffled[:, good] - shuffled[:, bad])
        # pairs without both scores count 1/2
        right: FloatArray = 0.5 + signs.sum(axis=1) / 2 / len(pairs)
        return right

    metric = measure_shuffled_scores("shuffled", list(scores.values()), compute_accuracy)
    return _make_estimate(metric.value, metric.low, metric.high, len(pairs))


def _correlate(scores: Mapping[Response, float], other: Mapping[Response, float]) -> Estimate:
    """Compute Spearman's correlation over all responses, with a bootstrap over prompts."""
    by_prompt: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for response, score in scores.items():
        by_prompt[response[0]].append((score, other[response]))
    groups = list(by_prompt.values())
    value = _correlate_groups(groups)
    if value is None:
        return _make_estimate(None, None, None, len(scores))
    rng = np.random.default_rng(0)
    sampled = [
        _correlate_groups([groups[at] for at in chosen])
        for chosen in rng.integers(len(groups), size=(_RESAMPLES, len(groups)))
    ]
    low, high = np.percentile([one for one in sampled if one is not None], (2.5, 97.5))
    return _make_estimate(value, float(low), float(high), len(scores))


def _correlate_groups(groups: Sequence[Sequence[tuple[float, float]]]) -> float | None:
    first, second = zip(*(row for group in groups for row in group), strict=True)
    return compute_spearman(first, second)


def _make_estimate(
    value: float | None, low: float | None, high: float | None, count: int
) -> Estimate:
    rounded = [None if one is None else round(one, 4) for one in (value, low, high)]
    return {"value": rounded[0], "low": rounded[1], "high": rounded[2], "n": count}


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "set": lambda row: str(row["set"]),
        "judge": lambda row: str(row["judge"]),
        "readout": lambda row: str(row.get("readout", "")),
        "readable": lambda row: _format(row.get("readable"), 100, "%"),
        "entropy": lambda row: _format(row.get("score_entropy_bits"), 1, ""),
        "accuracy": lambda row: _format(row["accuracy"], 100, "%"),
        "shuffled": lambda row: _format(row["shuffled_accuracy"], 100, "%"),
        "change": lambda row: _format(row.get("accuracy_change"), 100, " points"),
        "Spearman": lambda row: _format(row["spearman"], 1, ""),
        "prefers longer": lambda row: _format(row["prefers_longer"], 100, "%"),
    }
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(show(row) for show in columns.values()) + " |")


def _format(estimate: Estimate | None, factor: int, unit: str) -> str:
    if estimate is None or estimate["value"] is None:
        return "-"
    digits = 1 if factor == 100 else 2
    value, low, high = (
        f"{factor * (estimate[k] or 0.0):.{digits}f}" for k in ("value", "low", "high")
    )
    return f"{value}{unit} ({low} to {high})"


if __name__ == "__main__":
    main()
