"""Share of good toy runs that the judge probe stops, and of bad ones that pass.

    python -m benchmarks.probe_false_alarms                   # trains five missing base models
    python -m benchmarks.probe_false_alarms --scripted-only   # only the table of partial faults

Good runs: the 90 runs of docs/miniature_paper.md (six arms, three base models, loop seeds 1 to 5),
with several probe seeds each. Arms with equal settings of actor and judge sample identical
judgments, so the number of distinct probes is printed too. Bad runs: the same base models with one
fault each. Scripted judges write the replies of the `scripted` engine, and a share of them is
replaced by the fault, either reply by reply or prompt by prompt, which is harder to distinguish
from a bad prompt.

With --record, each finished probe is a line of that file, and is not repeated when the command runs
again. Exits with 1 if more than 1% of the good runs are stopped, or if a bad run passes.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Any, Final

from meta_reward_core.context import PromptTemplates
from meta_reward_core.engines.base import Conversation, Engine
from meta_reward_core.engines.scripted import Reply, ScriptedEngine, make_fake_reply
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.engines.transformers import load_transformers_engine
from meta_reward_core.evaluation.confidence_intervals import compute_exact_interval
from meta_reward_core.evaluation.judge_probe import ProbeResult, run_judge_probe
from meta_reward_core.evaluation.probe_gate import make_limits
from meta_reward_core.experiment import load_templates
from meta_reward_core.method.prompt_sampling import sample_prompts
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.planning.prompt_pool import read_pool
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import hash_json
from meta_reward_core.storage.records import Prompt
from meta_reward_core.tasks.registry import get_task_templates
from meta_reward_core.tasks.toy.base_model_variants import SeedModelVariant, ensure_variant

LOOP_SEEDS: Final = range(1, 6)
NOISY_ARM: Final = "miniature-noisy-meta-judge"
ARMS: Final = (
    "miniature",
    "miniature-judge-pairs-always",
    "miniature-self-rewarding",
    "miniature-self-rewarding-equal-steps",
    "miniature-no-length-control",
    NOISY_ARM,
)
BAD_PROBE_SEEDS: Final = 3
MAX_FALSE_ALARMS: Final = 0.01
GOOD: Final = "good"
BAD_MODELS: Final = ("untrained model", "missing end token")
BAD_SETTINGS: Final = {
    "judge limit of 8 tokens": ("judge.max_new_tokens=8",),
    "meta-judge limit of 8 tokens": ("meta_judge.max_new_tokens=8",),
    "context of 80 tokens": ("engine.max_model_len=80",),
    "another judge template": ("judge.template=brief_judge",),
}
FAULTS: Final[dict[str, Reply]] = {
    "unreadable": "It is a nice answer.",
    "wrong format": '{"score": "high"}',
    "cut off": ("The answer begins well, and", "length"),
    "constant": "It holds.\nScore: 4",
}
SHARES: Final = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A toy run to probe.

    Attributes:
        kind: `GOOD`, or the fault.
        model: the base model.
        arm: name of the recipe.
        changes: changed recipe values.
    """

    kind: str
    model: SeedModelVariant
    arm: str
    changes: tuple[str, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[1, 2, 3], metavar="SFT_SEED")
    parser.add_argument("--folder", type=Path, help="Folder of base models.")
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--probe-seeds", type=int, default=3, help="Of good runs.")
    parser.add_argument("--record", type=Path, help="File of finished probes (JSON Lines).")
    parser.add_argument("--scripted-only", action="store_true")
    options = parser.parse_args()
    failed = False
    if not options.scripted_only:
        models = options.folder or Path(tempfile.gettempdir()) / "miniature-models"
        failed = probe_toy_runs(options, models)
    sys.exit(bool(print_scripted_judges(range(BAD_PROBE_SEEDS))) or failed)


def probe_toy_runs(options: argparse.Namespace, models: Path) -> bool:
    """Probe good and bad runs; return whether too many are judged wrongly."""
    record = ProbeLog(options.record)
    good = [PlannedRun(GOOD, *made) for made in list_runs(options.models, options.arms)]
    bad = list(list_bad_runs(options.models))
    print("| runs | base model | arm | stopped | causes |\n|---|---|---|--:|---|")
    for planned in [*good, *bad]:
        seeds = options.probe_seeds if planned.kind == GOOD else BAD_PROBE_SEEDS
        probes = probe_run(planned, models, range(seeds), record)
        print_row(planned.kind, planned.model.name, planned.arm, probes)
    print(
        "\n| runs | stopped | share (exact 95% CI) | distinct probes stopped |\n|---|--:|--:|--:|"
    )
    failed = False
    for kind, rows in groupby(record.used, key=lambda one: str(one["kind"])):
        stopped, total = print_total(kind, list(rows))
        failed |= stopped > MAX_FALSE_ALARMS * total if kind == GOOD else stopped < total
    print()
    return failed


def list_runs(
    sft_seeds: Sequence[int], arms: Sequence[str]
) -> Iterator[tuple[SeedModelVariant, str]]:
    """List base models and arms, with the arms of one model next to each other."""
    for sft_seed, noisy in product(sft_seeds, (False, True)):
        for arm in arms:
            if (arm == NOISY_ARM) == noisy:
                yield SeedModelVariant(sft_seed, noisy=noisy), arm


def list_bad_runs(sft_seeds: Sequence[int]) -> Iterator[PlannedRun]:
    """List runs with a fault, fault by fault."""
    for kind, sft_seed in product((*BAD_MODELS, *BAD_SETTINGS), sft_seeds):
        changes = BAD_SETTINGS.get(kind, ())
        yield PlannedRun(kind, SeedModelVariant(sft_seed), "miniature", changes)


class ProbeLog:
    """Finished probes, in a file if one is given, and those used in this call."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        known = path.read_text().splitlines() if path is not None and path.exists() else []
        self._known = {one["inputs"]: one for one in map(json.loads, known)}
        self.used: list[dict[str, Any]] = []

    def find(self, inputs: str) -> dict[str, Any] | None:
        """Return a probe with these inputs if it was finished earlier."""
        found = self._known.get(inputs)
        if found is not None:
            self.used.append(found)
        return found

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Add a finished probe."""
        self.used.append(row)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(f"{json.dumps(row)}\n")
        return row


def probe_run(
    planned: PlannedRun, models: Path, probe_seeds: Iterable[int], record: ProbeLog
) -> list[dict[str, Any]]:
    """Probe a run with all its seeds; the model is loaded only if a probe is missing."""
    changes = [*planned.changes, f"model={planned.model.name}"]
    recipe = load_recipe(planned.arm, changes=changes)
    templates = load_templates(recipe, get_task_templates(recipe.task))
    pool, _ = read_pool(None, recipe)
    sound = ensure_variant(planned.model, models, scratch=models / "scratch", say=print)
    made = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = spoil_model(sound, planned, Path(scratch))
        inputs = [recipe.sha256, templates.sha256, asdict(make_limits(recipe.probe))]
        inputs.append(hash_model_folder(folder))
        engine: Engine | None = None
        for seeds in product(LOOP_SEEDS, probe_seeds):
            key = hash_json([*inputs, *seeds])[:16]
            found = record.find(key)
            if found is None:
                engine = engine or load_engine(folder, recipe)
                result = probe(recipe, templates, pool.prompts, engine, seeds)
                found = record.add(describe_probe(planned, seeds, key, result))
            made.append(found)
        if engine is not None:
            engine.close()
    return made


def spoil_model(sound: Path, planned: PlannedRun, scratch: Path) -> Path:
    """Return the folder of a model with the planned fault."""
    if planned.kind not in BAD_MODELS:
        return sound
    folder = Path(shutil.copytree(sound, scratch / "model"))
    if planned.kind == "untrained model":
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(planned.model.sft_seed)
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
        return folder
    for name, value in (("config", 0), ("generation_config", 0), ("tokenizer_config", "<|pad|>")):
        path = folder / f"{name}.json"
        values = json.loads(path.read_text())
        values["eos_token" if name == "tokenizer_config" else "eos_token_id"] = value
        path.write_text(json.dumps(values))
    return folder


def load_engine(folder: Path, recipe: Recipe) -> Engine:
    """Load a model with the settings of a recipe."""
    return load_transformers_engine(
        folder,
        dtype=recipe.engine.dtype,
        device=recipe.engine.device,
        threads=recipe.engine.threads,
        max_batch_tokens=recipe.engine.max_batch_tokens,
        max_model_len=recipe.engine.max_model_len,
    )


def probe(
    recipe: Recipe,
    templates: PromptTemplates,
    pool: Sequence[Prompt],
    engine: Engine,
    seeds: tuple[int, int],
) -> ProbeResult:
    """Run the probe of a run like `probe_gate`."""
    loop_seed, probe_seed = seeds
    sampled = sample_prompts(
        pool,
        used=(),
        count=recipe.probe.prompts,
        allow_reuse=False,
        seed=derive_seed(loop_seed, "iteration", 1, "sample", 0),
    )
    return run_judge_probe(
        sampled,
        recipe,
        templates,
        engine=engine,
        judge=engine,
        iteration=1,
        seed=derive_seed(loop_seed, "probe", probe_seed),
        seconds=3600.0,
        limits=make_limits(recipe.probe),
    )


def describe_probe(
    planned: PlannedRun, seeds: tuple[int, int], inputs: str, result: ProbeResult
) -> dict[str, Any]:
    """Describe a finished probe in plain values."""
    report = result.report
    rows = [[one.prompt_id, one.text] for one in result.responses]
    rows += [[one.prompt_id, one.text] for one in result.judgments]
    shares = ("readable", "cut_off", "verdicts", "actor_pairs", "judge_pairs")
    return {
        "kind": planned.kind,
        "model": planned.model.name,
        "arm": planned.arm,
        "loop_seed": seeds[0],
        "probe_seed": seeds[1],
        "causes": [f"{one.role}: {one.cause}" for one in report.findings],
        "prompts": report.prompts,
        **{name: [getattr(report, name).count, getattr(report, name).total] for name in shares},
        "scores": list(report.scores),
        "rows": hash_json(rows)[:16],
        "inputs": inputs,
    }


def print_row(kind: str, model: str, arm: str, probes: Sequence[dict[str, Any]]) -> None:
    """Print how many probes of a run stopped it, and why."""
    causes = Counter(cause for one in probes for cause in one["causes"])
    told = ", ".join(f"{cause} ({count})" for cause, count in causes.most_common()) or "none"
    stopped = sum(bool(one["causes"]) for one in probes)
    print(f"| {kind} | {model} | {arm} | {stopped}/{len(probes)} | {told} |", flush=True)


def print_total(kind: str, probes: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Print and return the number of stopped runs of a kind, and of all its runs."""
    stopped = sum(bool(one["causes"]) for one in probes)
    distinct = {one["rows"] for one in probes}
    hit = {one["rows"] for one in probes if one["causes"]}
    told = [
        f"{count / total:.1%} ({low:.2%} to {high:.2%})"
        for count, total in ((stopped, len(probes)), (len(hit), len(distinct)))
        for low, high in (compute_exact_interval(count, total),)
    ]
    print(
        f"| {kind} | {stopped}/{len(probes)} | {told[0]} | {len(hit)}/{len(distinct)}, {told[1]} |"
    )
    return stopped, len(probes)


def print_scripted_judges(probe_seeds: Sequence[int]) -> int:
    """Print how often each fault stops a run, by share; return how many useless judges passed."""
    recipe = load_recipe("miniature", changes=["engine.kind=scripted"])
    templates = load_templates(recipe, get_task_templates(recipe.task))
    pool, _ = read_pool(None, recipe)
    passed = 0
    print(f"| fault | spread over | {' | '.join(f'{share:.0%}' for share in SHARES)} |")
    print(f"|---|---|{'--:|' * len(SHARES)}")
    for fault, by_prompt in product(FAULTS, (False, True)):
        stopped = []
        for share in SHARES:
            runs = [
                bool(
                    probe(
                        recipe,
                        templates,
                        pool.prompts,
                        ScriptedEngine(FaultyJudge(fault, share, seeds, by_prompt=by_prompt)),
                        seeds,
                    ).report.findings
                )
                for seeds in product(LOOP_SEEDS, probe_seeds)
            ]
            stopped.append(f"{sum(runs)}/{len(runs)}")
            passed += runs.count(False) if share == 1.0 else 0
        where = "prompts" if by_prompt else "replies"
        print(f"| {fault} | {where} | {' | '.join(stopped)} |", flush=True)
    return passed


class FaultyJudge:
    """Build a judge with a fault in a share of its replies."""

    def __init__(
        self, fault: str, share: float, seeds: tuple[int, int], *, by_prompt: bool
    ) -> None:
        self._reply, self._share = FAULTS[fault], share
        self._seeds, self._by_prompt = seeds, by_prompt

    def __call__(self, conversation: Conversation, sample: int, seed: int) -> Reply:
        usual = make_fake_reply(conversation, sample, seed)
        if "\nScore:" not in usual:
            return usual
        asked = conversation[-1]["content"]
        what = [asked.partition("\nReply :")[0]] if self._by_prompt else [asked, sample, seed]
        draw = derive_seed(*self._seeds, "fault", *what) % 10_000
        return self._reply if draw < self._share * 10_000 else usual


if __name__ == "__main__":
    main()
