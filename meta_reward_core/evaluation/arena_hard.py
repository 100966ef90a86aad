"""Arena-Hard style: two games per question, five verdicts, and a score against the baseline.

Version 0.1 (the paper's): Bradley-Terry over all models, a band from the 2.5th to the 97.5th
percentile of 100 bootstraps of the games. Version 2.0, for each category separately: the
mean score, a band from the 5th to the 95th percentile; Bradley-Terry only under style control. A
strong verdict counts as three games in both versions.

Source: Li et al. 2024, "From Crowdsourced Data to High-Quality Benchmarks", arXiv 2406.11939; the
public tool `arena-hard-auto` for weights and bands, and for style control.
Departs from the tool: in addition to its band, which treats the three games of a strong verdict and
the two games of a question as independent, there is an interval over questions; controlling for one
style feature uses that feature (the tool slices other columns); a score that is not a verdict
excludes its question in version 2.0 (the tool stops); the score of version 2.0 is the mean itself
(the tool prints the mean of 100 bootstraps, which deviates from it randomly: by 0.4 points at 40
questions).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from scipy.special import expit

from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.arena_hard_io import (
    ArenaAnswer,
    ArenaJudgment,
    ArenaQuestion,
    Style,
    Version,
    group_by_category,
)
from meta_reward_core.evaluation.confidence_intervals import (
    Array,
    Interval,
    compute_bounded_mean_interval,
    compute_percentile_interval,
    enclose_intervals,
    resample_counts,
)
from meta_reward_core.evaluation.judge_hacking import ComparedResponse, find_judge_hacking
from meta_reward_core.evaluation.logistic_regression import fit_logistic
from meta_reward_core.evaluation.scorecard import (
    DataIssue,
    Metric,
    Scorecard,
    count_reasons,
    make_issue_if_any,
)
from meta_reward_core.method.elo import fit_elo

StyleControl = Literal["length", "markdown"]

STRONG_WEIGHT: Final = 3
BOOTSTRAP_ROUNDS: Final = 100
FEW_QUESTIONS: Final = 100

_SCORES_OF_A: Final = {"A>>B": 1.0, "A>B": 1.0, "A=B": 0.5, "B>A": 0.0, "B>>A": 0.0}
_PRIOR: Final = 1e-6  # keeps ratings finite if a model wins every game; otherwise without effect


@dataclass(frozen=True, slots=True)
class GameOutcomes:
    """Games with a verdict, one row each, for all models.

    Attributes:
        models: names of the models with a game, in order; `model` contains indices into this list.
        model: index of the model compared with the baseline [n].
        question: index of the question [n].
        uids: ids of the questions, in order.
        scores: the model's score: 1, 0.5 or 0 [n].
        copies: number of games that the game counts as: 3 for a strong verdict, otherwise 1 [n].
    """

    models: list[str]
    model: Array
    question: Array
    uids: list[str]
    scores: Array
    copies: Array


def build_outcomes(judgments: Sequence[ArenaJudgment], *, version: Version) -> GameOutcomes:
    """Convert verdicts to scores of the models.

    A game without a verdict is excluded; in version 2.0, so is the other game of its question.

    Raises:
        EvaluationFileError: no game has a usable verdict.
    """
    played = [(j, outcome) for j in judgments for outcome in score_games(j, version=version)]
    if not played:
        raise EvaluationFileError("no game has a verdict: there is nothing to score.")
    models = sorted({judgment.model for judgment, _ in played})
    uids = sorted({judgment.uid for judgment, _ in played})
    model_place = {name: place for place, name in enumerate(models)}
    uid_place = {uid: place for place, uid in enumerate(uids)}
    rows = [(model_place[j.model], uid_place[j.uid], *outcome) for j, outcome in played]
    model, question, scores, copies = np.array(rows, dtype=np.float64).T
    return GameOutcomes(models, model, question, uids, scores, copies)


def score_games(judgment: ArenaJudgment, *, version: Version) -> list[tuple[float, int]]:
    """Return (the model's score, number of games that it counts as) for each counted game."""
    verdicts = [game.verdict for game in judgment.games]
    if version == "2.0" and None in verdicts:
        return []
    outcomes = []
    for number, verdict in enumerate(verdicts):
        if verdict is not None:
            of_a = _SCORES_OF_A[verdict]
            copies = STRONG_WEIGHT if len(verdict) == len("A>>B") else 1
            outcomes.append((of_a if number == 1 else 1 - of_a, copies))
    return outcomes


def score_arena(
    judgments: Sequence[ArenaJudgment],
    *,
    version: Version = "0.1",
    controls: Sequence[StyleControl] = (),
    answers: Mapping[tuple[str, str], ArenaAnswer] | None = None,
    questions: Mapping[str, ArenaQuestion] | None = None,
    rounds: int = BOOTSTRAP_ROUNDS,
    seed: int = 0,
) -> list[Scorecard]:
    """Build a scorecard per model, best first; in version 2.0 per category.

    Args:
        judgments: judgments by one judge against one baseline; in version 2.0, against one baseline
            for each category.
        version: version whose rules apply.
        controls: style features to control for; only in version 2.0, and only with `answers` that
            have styles.
        answers: answers by (model, uid), for style control, lengths and the detection of gaming.
        questions: questions by uid, for the detection of gaming.
        rounds: number of bootstrap rounds.
        seed: random seed of the bootstrap.

    Raises:
        EvaluationFileError: no game can be scored, or style control lacks an answer's style.
    """
    if controls and version != "2.0":
        raise EvaluationFileError(
            "style control is available only for version 2.0: select version 2.0."
        )
    build_outcomes(judgments, version=version)  # refuses judgments without any verdict
    return [
        card
        for category, own in group_by_category(judgments, version=version).items()
        for card in _score_category(
            own,
            benchmark="_".join(filter(None, ["arena_hard", version, category])),
            version=version,
            controls=controls,
            answers=answers or {},
            questions=questions or {},
            rounds=rounds,
            seed=seed,
        )
    ]


def _score_category(
    judgments: Sequence[ArenaJudgment],
    *,
    benchmark: str,
    version: Version,
    controls: Sequence[StyleControl],
    answers: Mapping[tuple[str, str], ArenaAnswer],
    questions: Mapping[str, ArenaQuestion],
    rounds: int,
    seed: int,
) -> list[Scorecard]:
    """Build a scorecard per model against the baseline of these judgments, best first."""
    metrics: dict[str, list[Metric]] = {}
    if any(score_games(judgment, version=version) for judgment in judgments):
        metrics = _make_model_metrics(
            judgments, version=version, controls=controls, answers=answers, rounds=rounds, seed=seed
        )
    by_model: defaultdict[str, list[ArenaJudgment]] = defaultdict(list)
    for judgment in judgments:
        by_model[judgment.model].append(judgment)
    cards = [
        _make_scorecard(own, benchmark, version, metrics.get(model, []), answers, questions)
        for model, own in sorted(by_model.items())
    ]
    return sorted(cards, key=lambda card: -(card.get_metric("score").value or 0.0))


def _make_model_metrics(
    judgments: Sequence[ArenaJudgment],
    *,
    version: Version,
    controls: Sequence[StyleControl],
    answers: Mapping[tuple[str, str], ArenaAnswer],
    rounds: int,
    seed: int,
) -> dict[str, list[Metric]]:
    """Compute the scores of each model with a counted game; style-controlled scores come last."""
    outcomes = build_outcomes(judgments, version=version)
    judged = Counter(judgment.model for judgment in judgments)
    metrics = _make_score_metrics(outcomes, judged, version=version, rounds=rounds, seed=seed)
    if controls:
        baseline = judgments[0].baseline
        controlled = _make_controlled_metrics(
            outcomes, answers, baseline, controls, rounds=rounds, seed=seed
        )
        metrics = {model: [*metrics[model], controlled[model]] for model in metrics}
    return metrics


def _make_scorecard(
    own: Sequence[ArenaJudgment],
    benchmark: str,
    version: Version,
    scores: Sequence[Metric],
    answers: Mapping[tuple[str, str], ArenaAnswer],
    questions: Mapping[str, ArenaQuestion],
) -> Scorecard:
    """Build one model's scorecard; `scores` is empty for a model without a counted game."""
    first = own[0]
    absent = Metric("score", None, 0, absent="no game has a verdict")
    return Scorecard(
        benchmark=benchmark,
        model=first.model,
        baseline=first.baseline,
        judge=first.judge,
        metrics=(*(scores or [absent]), *_make_position_metrics(own)),
        issues=tuple(_find_issues(own, answers, questions)),
        columns=_make_leaderboard_columns(first.model, scores[1], version) if scores else {},
    )


def _make_score_metrics(
    outcomes: GameOutcomes, judged: Mapping[str, int], *, version: Version, rounds: int, seed: int
) -> dict[str, list[Metric]]:
    """Compute each model's score with its interval over questions and the version's band.

    Args:
        judged: number of questions on which each model was judged, counted or not.
    """
    level = "95" if version == "0.1" else "90"
    scores, bands = _compute_scores(outcomes, version=version, rounds=rounds, seed=seed)
    found = {}
    for place, model in enumerate(outcomes.models):
        questions = len(np.unique(outcomes.question[outcomes.model == place]))
        ends = _bootstrap_question_interval(
            outcomes, place, seed, missing=judged[model] - questions
        )
        name = f"score_band_{level}_of_version_{version}"
        found[model] = [
            Metric("score", scores[place], questions, ends.low, ends.high),
            Metric(name, scores[place], questions, *bands[place]),
        ]
    return found


def _compute_scores(
    outcomes: GameOutcomes, *, version: Version, rounds: int, seed: int
) -> tuple[list[float], list[Interval]]:
    """Compute scores in percent and the version's bands, per model."""
    resampled = _resample_games(
        outcomes, rounds, np.random.default_rng(seed), per_model=version == "2.0"
    )
    if version == "0.1":
        rates = fit_bradley_terry_rates(outcomes, np.vstack([outcomes.copies, resampled]))
        return (
            [float(rate) for rate in rates[0]],
            [
                compute_percentile_interval(rates[1:, place])
                for place in range(len(outcomes.models))
            ],
        )
    rates = _compute_mean_scores(outcomes, np.vstack([outcomes.copies, resampled]))
    bands = [compute_percentile_interval(column, low=5, high=95) for column in rates[1:].T]
    return [float(mean) for mean in rates[0]], bands


def _resample_games(
    outcomes: GameOutcomes, rounds: int, rng: np.random.Generator, *, per_model: bool
) -> Array:
    """Compute bootstrap weights of the games [rounds, n], resampling copies like the tool."""
    groups = (
        [outcomes.model == place for place in range(len(outcomes.models))]
        if per_model
        else [np.ones(len(outcomes.model), dtype=bool)]
    )
    resampled = np.zeros((rounds, len(outcomes.model)))
    for group in groups:
        copies = outcomes.copies[group]
        total = int(copies.sum())
        if total:
            resampled[:, group] = rng.multinomial(total, copies / total, size=rounds)
    return resampled


def fit_bradley_terry_rates(outcomes: GameOutcomes, weights: Array) -> Array:
    """Fit Bradley-Terry win rates against the baseline in percent [problems, models].

    P(model beats baseline) = sigmoid(rating of the model - rating of the baseline), ratings by
    maximum likelihood. If every game is against one baseline, this is the weighted mean of the
    scores. A prior of 1e-6 keeps the rating finite for a model that wins every game.

    Args:
        outcomes: the games.
        weights: weights of the games, shape [problems, n].
    """
    size = len(outcomes.models)
    matrices = []
    for row in weights:
        wins = np.zeros((size + 1, size + 1))
        wins[:size, size] = np.bincount(
            outcomes.model.astype(int), row * outcomes.scores, minlength=size
        )
        wins[size, :size] = np.bincount(
            outcomes.model.astype(int), row * (1 - outcomes.scores), minlength=size
        )
        matrices.append(wins)
    ratings = np.stack(fit_elo(matrices, prior=_PRIOR))
    rates: Array = 100 * expit(ratings[:, :size] - ratings[:, size:])
    return rates


def _compute_mean_scores(outcomes: GameOutcomes, weights: Array) -> Array:
    """Compute the weighted mean score per model in percent [problems, models]."""
    of_model = np.eye(len(outcomes.models))[outcomes.model.astype(int)]
    means: Array = 100 * (weights * outcomes.scores) @ of_model / (weights @ of_model)
    return means


def _bootstrap_question_interval(
    outcomes: GameOutcomes, place: int, seed: int, *, missing: int
) -> Interval:
    """Compute a 95% bootstrap interval over questions, keeping the games of a question together.

    It is not narrower than Wilson's interval for the same number of questions, so that winning
    every game does not imply certainty, and it is widened by questions without a counted game.
    """
    own = outcomes.model == place
    _, question = np.unique(outcomes.question[own], return_inverse=True)
    won = np.bincount(question, outcomes.copies[own] * outcomes.scores[own])
    played = np.bincount(question, outcomes.copies[own])
    resampled = resample_counts(len(won), 1000, np.random.default_rng(seed))
    band = compute_percentile_interval(100 * (resampled @ won) / (resampled @ played))
    mean = 100 * float(won.sum() / played.sum())
    plain = compute_bounded_mean_interval(
        mean, len(won), lowest=0.0, highest=100.0, missing=missing
    )
    return enclose_intervals(band, plain)


def _make_controlled_metrics(
    outcomes: GameOutcomes,
    answers: Mapping[tuple[str, str], ArenaAnswer],
    baseline: str,
    controls: Sequence[StyleControl],
    *,
    rounds: int,
    seed: int,
) -> dict[str, Metric]:
    """Compute style-controlled Bradley-Terry win rates in percent: medians, 5..95% bands.

    Logits: rating of the model + coefficients . style features; the baseline's rating is 0.
    """
    style = compute_style_features(outcomes, answers, baseline)
    chosen = ([0] if "length" in controls else []) + ([1, 2, 3] if "markdown" in controls else [])
    of_model = np.eye(len(outcomes.models))[outcomes.model.astype(int)]
    found = fit_logistic(
        np.hstack([of_model, style[:, chosen]]),
        outcomes.scores,
        _resample_games(outcomes, rounds, np.random.default_rng(seed), per_model=False),
        lasso=np.zeros(rounds),
        ridge=_PRIOR,
    )
    rates = 100 * expit(found[:, : len(outcomes.models)])
    name = f"score_controlled_{'_'.join(sorted(set(controls)))}_band_90"
    return {
        model: Metric(
            name,
            float(np.median(column)),
            int((outcomes.model == place).sum()),
            *compute_percentile_interval(column, low=5, high=95),
        )
        for place, (model, column) in enumerate(zip(outcomes.models, rates.T, strict=True))
    }


def compute_style_features(
    outcomes: GameOutcomes, answers: Mapping[tuple[str, str], ArenaAnswer], baseline: str
) -> Array:
    """Compute normalized style differences of model and baseline for each game [n, 4].

    Length: (t - t0) / (t + t0) of the tokens. Headers, lists, bold: with densities
    d = count / (t + 1), (d - d0) / (d + d0 + 1). Each is then centered and divided by its standard
    deviation (ddof 1) over games, copies counted.

    Departs from the tool, which fails in both cases: for two empty answers, and for a constant
    feature, the difference is 0.

    Raises:
        EvaluationFileError: an answer or its style is missing.
    """
    own, other = (
        np.array(
            [
                _get_style(answers, model, outcomes.uids[int(question)])
                for model, question in zip(names, outcomes.question, strict=True)
            ],
            dtype=np.float64,
        )
        for names in (
            [outcomes.models[int(place)] for place in outcomes.model],
            [baseline] * len(outcomes.model),
        )
    )
    density, density_0 = (counts[:, 1:] / (counts[:, :1] + 1) for counts in (own, other))
    tokens = own[:, :1] + other[:, :1]
    features = np.hstack(
        [
            (own[:, :1] - other[:, :1]) / np.where(tokens > 0, tokens, 1.0),
            (density - density_0) / (density + density_0 + 1),
        ]
    )
    copies = np.repeat(features, outcomes.copies.astype(int), axis=0)
    spread = copies.std(axis=0, ddof=1)
    normalised: Array = (features - copies.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return normalised


def _get_style(answers: Mapping[tuple[str, str], ArenaAnswer], model: str, uid: str) -> Style:
    answer = answers.get((model, uid))
    if answer is None or answer.style is None:
        raise EvaluationFileError(
            f"style control needs metadata for every answer, but the answer of {model} to "
            f"question {uid} has none; pass the answer files of the model and of "
            "the baseline with --answers."
        )
    return answer.style


def _make_position_metrics(own: Sequence[ArenaJudgment]) -> list[Metric]:
    """Compute position metrics: agreement of the two games, wins of the first position."""
    both = [j.games for j in own if None not in (j.games[0].verdict, j.games[1].verdict)]
    alike = [_to_score(first.verdict) == 1 - _to_score(second.verdict) for first, second in both]
    decided = [
        _to_score(game.verdict)
        for judgment in own
        for game in judgment.games
        if game.verdict not in (None, "A=B")
    ]
    return [
        _make_share_metric("position_consistency", alike),
        _make_share_metric("first_position_wins", decided),
    ]


def _to_score(verdict: str | None) -> float:
    return _SCORES_OF_A[verdict or "A=B"]


def _make_share_metric(name: str, values: Sequence[float]) -> Metric:
    if not values:
        return Metric(name, None, 0, absent="no games to compute this metric from")
    mean = 100 * sum(values) / len(values)
    ends = compute_bounded_mean_interval(mean, len(values), lowest=0.0, highest=100.0)
    return Metric(name, mean, len(values), ends.low, ends.high)


def _make_leaderboard_columns(model: str, band: Metric, version: Version) -> dict[str, Any]:
    """Build the public leaderboard's columns from the metric with the version's band."""
    score, low, high = band.value or 0.0, band.low or 0.0, band.high or 0.0
    below, above = score - low, high - score
    if version == "0.1":
        return {
            "model": model,
            "score": score,
            "rating_q025": low,
            "rating_q975": high,
            "CI": f"(-{below:.2f}, +{above:.2f})",
        }
    return {
        "Model": model,
        "Scores (%)": round(score, 1),
        "CI (%)": f"(-{below:.1f} / +{above:.1f})",
    }


def _find_issues(
    own: Sequence[ArenaJudgment],
    answers: Mapping[tuple[str, str], ArenaAnswer],
    questions: Mapping[str, ArenaQuestion],
) -> list[DataIssue]:
    unread = [game.unread for j in own for game in j.games if game.verdict is None]
    given = [
        ComparedResponse(
            questions[j.uid].text if j.uid in questions else "",
            answer.text,
            _get_text(answers.get((j.baseline, j.uid))),
        )
        for j in own
        if (answer := answers.get((j.model, j.uid))) is not None
    ]
    return [
        *make_issue_if_any(
            unread,
            "games_without_verdict",
            f"Games without a verdict: {{rows}}{count_reasons(unread)}.",
            "Version 0.1 excludes the game, version 2.0 the whole question. Judge them again.",
        ),
        *make_issue_if_any(
            own if len(own) < FEW_QUESTIONS else [],
            "few_questions",
            "Small sample: {rows}.",
            "Rely on the interval, not the score, or evaluate more questions.",
        ),
        *make_issue_if_any(
            [j for j in own if (j.model, j.uid) not in answers] if answers else [],
            "answers_missing",
            "Judged questions without an answer in the files: {rows}.",
            "Answers and judgments may be from different runs.",
        ),
        *find_judge_hacking(given),
    ]


def _get_text(answer: ArenaAnswer | None) -> str | None:
    return None if answer is None else answer.text
