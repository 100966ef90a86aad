"""The README.md of a published model: what it is, how it was trained, and its metrics.

A pure function of plain values; it reads no files. Local paths are never included: only the last
part of a path in a recipe is kept.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

import yaml

from meta_reward_core.models.hf_hub import parse_hub_name
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.reporting.summary import Summary, describe_audit

_PAPER: Final = "https://arxiv.org/abs/2407.19594"
_PATH_IN_TEXT: Final = re.compile(r"(?<![\w:/.])(?:~|/)[\w.-]*/[^\s'\"`]*")
_COUNTS: Final = {
    "sample": {"prompts": "instructions"},
    "generate": {"completions": "answers drawn", "refused": "prompts refused by the engine"},
    "judge": {"judgments": "judgments", "unscored": "judgments without a readable score"},
    "meta_judge": {"battles": "battles of judgments"},
    "train": {
        "rows": "pairs available for training",
        "trained": "of these, trained on",
        "refused": "of them refused",
    },
}


@dataclass(frozen=True, slots=True)
class Lineage:
    """Origin of a model.

    Attributes:
        seed_model: name of M0: its name on the Hub, with the commit if known, or the name of its
            folder.
        sha256: SHA-256 of every model from M0 on, in order.
    """

    seed_model: str
    sha256: Sequence[str]


def write_model_card(
    *,
    experiment: str,
    number: int,
    recipe: Recipe,
    seed: int,
    lineage: Lineage,
    summaries: Sequence[Summary],
) -> str:
    """Write the model card of M_number.

    Args:
        summaries: summaries of the iterations 1 to `number`, in order; see
            `meta_reward_core.reporting.summary`.

    Returns:
        Markdown with the front matter that the Hugging Face hub reads.
    """
    title = f"{experiment} M{number}"
    sections = [
        _format_front_matter(title, lineage),
        f"# {title}\n\n{_format_introduction(number)}",
        _format_lineage(lineage),
        *(_format_iteration(summary) for summary in summaries),
        _format_recipe(recipe, seed),
        _LICENSE,
        _USE,
    ]
    return "\n\n".join(sections) + "\n"


def get_public_model_name(name: str | None, *, task: str = "the toy task") -> str:
    """Return a public name for a recipe's model: an unchanged id, or the last part of a path.

    Args:
        task: title of the recipe's task, whose base model is used if the recipe has no model.
    """
    if name is None:
        return f"{task}'s seed model"
    return PurePath(name).name if _is_path(name) else name


_LICENSE: Final = """\
## License

This card grants no license. The weights are derived from the base model, and the preference pairs
from the prompts: the licenses of both determine how this model may be used. The publisher must
state the license here.
"""

_USE: Final = """\
## Use

The folder contains config, tokenizer, chat template and safetensors weights, and no code.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
```

The model was trained to be preferred by itself. Neither truth nor safety was measured: evaluate it
for your purpose before you rely on it.
"""


def _format_front_matter(title: str, lineage: Lineage) -> str:
    on_hub = parse_hub_name(lineage.seed_model)
    base = {"base_model": on_hub.repository} if on_hub and on_hub.is_pinned else {}
    values = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "other",
        **base,
        "model_name": title,
        "tags": ["meta-rewarding", "self-rewarding", "dpo"],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def _format_introduction(number: int) -> str:
    rounds = "one iteration" if number == 1 else f"{number} iterations"
    return (
        f"A language model after {rounds} of Meta-Rewarding ([Wu et al. 2024]({_PAPER})): it "
        f"responded to prompts, judged its own responses, judged its own judgments, and was "
        f"trained by DPO on the resulting pairs."
    )


def _format_lineage(lineage: Lineage) -> str:
    rows = [
        f"| M{number} | {_describe_origin(number, lineage.seed_model)} | `{sha256}` |"
        for number, sha256 in enumerate(lineage.sha256)
    ]
    head = "| model | what it is | sha256 of its files |\n|---|---|---|"
    return "## Lineage\n\n" + "\n".join([head, *rows])


def _describe_origin(number: int, seed_model: str) -> str:
    if number == 0:
        return f"seed model: {_escape_cell(seed_model)}"
    before = number - 1
    return f"M{before}, trained on the pairs of iteration {number}; M{before} is the reference"


def _format_iteration(summary: Summary) -> str:
    number = summary["iteration"]
    parts = [
        f"## Iteration {number}",
        _format_list("Data", [*_describe_counts(summary), *_describe_pairs(summary)]),
        _format_list("Judge", _describe_judge(summary.get("judge"))),
        _format_list("Meta-judge", _describe_meta_judge(summary.get("meta_judge"))),
        _format_list("Training", _describe_training(summary.get("training"))),
        _format_list("Audit by people", describe_audit(summary.get("audit"))),
        _format_list(
            "Measured by the ground truth of the toy task", _describe_ground_truth(summary, number)
        ),
        _format_list(
            "Alarms", [_format_alarm(alarm) for alarm in summary.get("alarms", [])] or ["none"]
        ),
    ]
    return "\n\n".join(part for part in parts if part)


def _format_list(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:\n", *(f"- {line}" for line in lines)]) if lines else ""


def _describe_counts(summary: Summary) -> list[str]:
    return [
        f"{row['counts'][name]:,} {words}"
        for row in summary.get("stages", [])
        for name, words in _COUNTS.get(row["stage"], {}).items()
        if name in row["counts"]
    ]


def _describe_pairs(summary: Summary) -> list[str]:
    return [
        f"{pairs['pairs']:,} pairs of kind {pairs['kind']}; "
        f"{sum(pairs['dropped'].values()):,} prompts without one{_format_reasons(pairs['dropped'])}"
        for pairs in summary.get("pairs", [])
    ]


def _format_reasons(dropped: Mapping[str, int]) -> str:
    listed = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items())
    return f" ({listed})" if listed else ""


def _describe_judge(judge: Mapping[str, Any] | None) -> list[str]:
    if judge is None:
        return []
    return _select_known(
        ("judgments with a readable score", _format_share(judge["parse_rate"])),
        ("mean score", _format_value(judge["mean"])),
        ("entropy of the scores, bits", _format_value(judge["entropy_bits"])),
        ("share of scores equal to 5", _format_share(judge["share_at_max"])),
    )


def _describe_meta_judge(meta_judge: Mapping[str, Any] | None) -> list[str]:
    if meta_judge is None:
        return []
    return _select_known(
        ("readable verdicts", _format_share(meta_judge["parse_rate"])),
        ("won by the judgment shown first", _format_share(meta_judge["won_by_first"])),
        ("won by the higher score", _format_share(meta_judge["won_by_higher_score"])),
        ("won by the longer judgment", _format_share(meta_judge["won_by_longer"])),
        ("verdicts that changed with the order", _format_share(meta_judge["inconsistency"])),
    )


def _describe_training(training: Mapping[str, Any] | None) -> list[str]:
    if training is None:
        return []
    metrics = [
        f"{name}: {ends['first']:.3f} at the first, {ends['last']:.3f} at the last step"
        for name, ends in training.items()
        if isinstance(ends, Mapping) and None not in (ends["first"], ends["last"])
    ]
    return [*metrics, f"published weights: step {training['kept_step']:,}"]


def _describe_ground_truth(summary: Summary, number: int) -> list[str]:
    return [
        f"{row['subject']}, {row['metric']}: {_format_before(row['before'], number)}"
        f"M{number} {row['after']:.3f}"
        for row in summary.get("truth", [])
        if row["after"] is not None
    ]


def _format_before(value: float | None, number: int) -> str:
    return "" if value is None else f"M{number - 1} {value:.3f}, "


def _format_alarm(alarm: Mapping[str, str]) -> str:
    return f"{alarm['name']}: {alarm['sentence']}"


def _select_known(*metrics: tuple[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in metrics if value]


def _format_share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _format_value(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _format_recipe(recipe: Recipe, seed: int) -> str:
    values = remove_local_paths(recipe.model_dump(mode="json"))
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip()
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"## Recipe\n\nRandom seed: {seed}.\n\n{fence}yaml\n{text}\n{fence}"


def remove_local_paths(value: Any) -> Any:
    """Replace local paths in plain values by their last part."""
    if isinstance(value, Mapping):
        return {key: remove_local_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [remove_local_paths(entry) for entry in value]
    if not isinstance(value, str):
        return value
    return _PATH_IN_TEXT.sub(lambda found: PurePath(found.group()).name, value)


def _is_path(name: str) -> bool:
    return name.startswith(("~", ".")) or PurePath(name).is_absolute()


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
