"""IFEval: whether a response follows every verifiable instruction of its prompt.

Strict checks the unchanged response. Loose also accepts it without its first line, its last line or
both, each also without asterisks. The prompt level counts prompts whose instructions are all
followed, the instruction level counts instructions; intervals are clustered by prompt.

Source: Zhou et al. 2023, arXiv 2311.07911, sections 2 and 3.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.data.tabular_io import NumberedRow, read_rows
from meta_reward_core.engines.base import Engine, Progress, SamplingParams
from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.clustered_intervals import compute_clustered_share_interval
from meta_reward_core.evaluation.generate_outputs import ModelResponses, generate_turns
from meta_reward_core.evaluation.scorecard import DataIssue, Metric, Scorecard, make_issue_if_any
from meta_reward_core.models.reasoning import extract_finished_part
from meta_reward_core.tasks.ifeval.checkers import INSTALL_HINT, Check, list_missing_packages
from meta_reward_core.tasks.protocol import BenchmarkItem, BenchmarkRequest, ItemResult

NAME: Final = "ifeval"
Mode = Literal["strict", "loose"]
MODES: Final[tuple[Mode, ...]] = ("strict", "loose")
_RESPONSE_COLUMNS: Final = ("response", "output")
_PROMPT_COLUMNS: Final = ("prompt", "instruction")


class IfEval:
    """The benchmark of the task `ifeval`."""

    def find_obstacle(self) -> str | None:
        """Return the missing packages, if any."""
        missing = list_missing_packages()
        if not missing:
            return None
        return f"the packages {', '.join(missing)} are not installed: {INSTALL_HINT}"

    def read_items(self, data: Path) -> Sequence[BenchmarkItem]:
        """Read `input_data.jsonl`; see `read_ifeval_items`."""
        return read_ifeval_items(data)

    def evaluate(
        self, request: BenchmarkRequest, items: Sequence[BenchmarkItem]
    ) -> Sequence[ItemResult]:
        """Generate one greedy response per prompt, and check it."""
        prompts = list(dict.fromkeys(item.prompt for item in items))
        answers = answer_prompts(
            request.engine,
            prompts,
            max_new_tokens=request.actor.max_new_tokens,
            system_prompt=request.system_prompt,
            seed=request.seed,
            progress=request.progress,
        )
        responses = dict(zip(prompts, (turns[0] for turns in answers.turns), strict=True))
        return check_responses(items, [responses[item.prompt] for item in items])

    def score(self, results: Sequence[ItemResult], *, model: str) -> Scorecard:
        """Compute accuracies; see `score_ifeval`."""
        return score_ifeval(results, model=model)


def read_ifeval_items(path: Path) -> list[BenchmarkItem]:
    """Read rows of `key, prompt, instruction_id_list, kwargs`.

    Raises:
        EvaluationFileError: a row is incomplete, a key occurs twice, or a check is unknown or lacks
            a value.
    """
    items: dict[str, BenchmarkItem] = {}
    for row in read_rows(path):
        item = _parse_item(row)
        if item.item_id in items:
            row.refuse(f"the key {item.item_id} occurs twice; keep one row.")
        items[item.item_id] = item
    return list(items.values())


def _parse_item(row: NumberedRow) -> BenchmarkItem:
    prompt = row.read_text("prompt")
    kinds, values = row.values.get("instruction_id_list"), row.values.get("kwargs")
    if not isinstance(kinds, list) or not kinds or not all(isinstance(k, str) for k in kinds):
        row.refuse("instruction_id_list must be a list of at least one string.")
    if not isinstance(values, list) or len(values) != len(kinds):
        row.refuse("kwargs must be a list with one object for each entry of instruction_id_list.")
    checks = []
    for kind, given in zip(kinds, values, strict=True):
        if not isinstance(given, Mapping):
            row.refuse("kwargs must be a list of objects.")
        check = Check(kind, {name: value for name, value in given.items() if value is not None})
        try:
            check.validate(prompt=prompt)
        except EvaluationFileError as error:
            row.refuse(f"{error}.")
        checks.append({"kind": check.kind, "values": dict(check.values)})
    return BenchmarkItem(row.read_name("key"), prompt, {"checks": checks})


def answer_prompts(
    engine: Engine,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    system_prompt: str | None,
    seed: int,
    progress: Progress | None = None,
) -> ModelResponses:
    """Generate one greedy response per prompt.

    Raises:
        EngineError: the engine failed as a whole.
    """
    return generate_turns(
        engine,
        [(prompt,) for prompt in prompts],
        sampling=SamplingParams(0.0, 1.0, max_new_tokens),
        seed=seed,
        system_prompt=system_prompt,
        progress=progress,
    )


def read_responses(path: Path, items: Sequence[BenchmarkItem]) -> list[str]:
    """Read rows of `prompt, response` (or `instruction, output`), one per item.

    Returns:
        The responses, in the order of the items. Rows with other prompts are ignored.

    Raises:
        EvaluationFileError: a row is incomplete, a prompt has two responses, or an item has none.
    """
    found: dict[str, str] = {}
    for row in read_rows(path):
        prompt = _read_either(row, _PROMPT_COLUMNS)
        response = _read_either(row, _RESPONSE_COLUMNS)
        if found.setdefault(prompt, response) != response:
            row.refuse(
                f"the prompt {prompt!r:.60} has a different response in an earlier "
                f"row; keep one of them."
            )
    missing = [item for item in items if item.prompt not in found]
    if missing:
        raise EvaluationFileError(
            f"{path.name}: {len(missing)} of {len(items)} prompts have no response, the first "
            f"with key {missing[0].item_id}; generate the responses, or remove these rows "
            f"from the data."
        )
    return [found[item.prompt] for item in items]


def _read_either(row: NumberedRow, columns: Sequence[str]) -> str:
    return row.read_text(next((name for name in columns if name in row.values), columns[0]))


def check_responses(items: Sequence[BenchmarkItem], responses: Sequence[str]) -> list[ItemResult]:
    """Check every response strictly and loosely, by instruction and by prompt.

    If a response has a closed reasoning block, only the text after it is checked.
    """
    results: list[ItemResult] = []
    for item, response in zip(items, responses, strict=True):
        answer = extract_finished_part(response)
        for mode in MODES:
            results += _check_response(item, answer or "", mode)
    return results


def _check_response(item: BenchmarkItem, response: str, mode: Mode) -> Iterator[ItemResult]:
    texts = [response] if mode == "strict" else list_loose_forms(response)
    prompt_id = compute_prompt_id(item.prompt)
    followed = []
    for part, given in enumerate(item.values["checks"]):
        check = Check(given["kind"], given["values"])
        hit = any(check.is_followed(text, prompt=item.prompt) for text in texts)
        followed.append(hit)
        metric, group = f"instruction_{mode}", check.kind.partition(":")[0]
        yield ItemResult(item.item_id, prompt_id, metric, part, float(hit))
        yield ItemResult(item.item_id, prompt_id, f"{metric}.{group}", part, float(hit))
    yield ItemResult(item.item_id, prompt_id, f"prompt_{mode}", 0, float(all(followed)))


def list_loose_forms(response: str) -> list[str]:
    """List the eight variants of a response; a loose check accepts any of them."""
    lines = response.split("\n")
    forms = [
        response,
        *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])),
    ]
    return [*forms, *(form.replace("*", "") for form in forms)]


@dataclass(frozen=True, slots=True)
class _Values:
    values: Sequence[float]
    clusters: Sequence[str]


def score_ifeval(results: Sequence[ItemResult], *, model: str) -> Scorecard:
    """Compute the four accuracies, then those of each instruction group; in [0, 1]."""
    main = [f"{level}_{mode}" for level in ("prompt", "instruction") for mode in MODES]
    found = _group(results)
    groups = sorted(name for name in found if "." in name)
    return Scorecard(
        benchmark=NAME,
        model=model,
        baseline=None,
        judge=None,
        metrics=tuple(
            _make_metric(name, found[name]) for name in (*main, *groups) if name in found
        ),
    )


def _group(results: Sequence[ItemResult]) -> dict[str, _Values]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    clusters: defaultdict[str, list[str]] = defaultdict(list)
    for result in results:
        if result.value is not None:
            values[result.metric].append(result.value)
            clusters[result.metric].append(result.prompt_id)
    return {name: _Values(values[name], clusters[name]) for name in values}


def _make_metric(name: str, found: _Values) -> Metric:
    interval = compute_clustered_share_interval(found.values, found.clusters)
    mean = sum(found.values) / len(found.values)
    return Metric(name, mean, len(found.values), interval.low, interval.high)


def find_response_issues(items: Sequence[BenchmarkItem]) -> list[DataIssue]:
    """Return data issues that affect how the metrics must be interpreted."""
    repeated = len(items) - len({item.prompt for item in items})
    return make_issue_if_any(
        range(repeated),
        "prompts_repeated",
        "Items that share their prompt with another item: {rows}.",
        "They have the same response; intervals count them as one prompt.",
    )
