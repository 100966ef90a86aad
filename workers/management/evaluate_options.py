"""`manage.py evaluate run`: options and evaluations with models."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from meta_reward_core.cli.options import parse_positive_int
from meta_reward_core.cli.renamed_options import add_old_option
from meta_reward_core.context import PromptTemplates
from meta_reward_core.data.file_io import create_output_folder, write_json
from meta_reward_core.data.prompt_files import read_prompts
from meta_reward_core.data.prompt_formats import FORMATS
from meta_reward_core.engines.base import Progress, SamplingParams
from meta_reward_core.errors import InputError
from meta_reward_core.evaluation.generate_outputs import NamedEngine
from meta_reward_core.evaluation.judge_benchmark import (
    compare_on_fixed_set,
    compare_on_own_responses,
    read_iteration_items,
    read_judge_items,
    run_judge,
)
from meta_reward_core.evaluation.pipelines import (
    BenchmarkRun,
    JudgePrompt,
    OutputSource,
    run_alpaca,
    run_arena,
    run_mt_bench,
    run_reward_bench,
)
from meta_reward_core.evaluation.scorecard import Scorecard, serialize_scorecard
from meta_reward_core.method.parsing import MAX_SCORE
from meta_reward_core.planning.engine_spec import open_engine, require_experiment
from meta_reward_core.recipes.prompt_templates import load_template
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.ifeval.run import IfEvalRun, run_ifeval
from meta_reward_core.tasks.labelled_pairs.run import run_labelled_pairs

_ENGINE: Final = "a model folder, a Hugging Face id, experiment:NAME/M2, endpoint:NAME, or scripted"

MAX_TEMPERATURE: Final = 5.0
MAX_TOP_SCORE: Final = 1000.0

Options = dict[str, Any]


def add_kind(
    kinds: "argparse._SubParsersAction[Any]", name: str, what: str
) -> argparse.ArgumentParser:
    """Declare a subcommand with one description for the list and its own help."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}."
    )
    return parser


def declare_runs(parser: argparse.ArgumentParser) -> None:
    """Declare a subcommand for each benchmark that can be run."""
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    alpaca = add_kind(benchmarks, "alpaca", "win rates against a baseline, on any prompts")
    add = alpaca.add_argument
    add("--prompts", type=Path, metavar="FILE",
        help=f"File of prompts. Formats: {', '.join(FORMATS)}.")  # fmt: skip
    _declare_sides(alpaca, "outputs", baseline=True)
    add("--orders", choices=["one", "both"], default="both",
        help="Whether each pair is shown in one order or in both. Default: both.")  # fmt: skip
    arena = add_kind(
        benchmarks, "arena", "Arena-Hard: two comparisons per question, one in each order"
    )
    add = arena.add_argument
    add("--questions", type=Path, required=True, metavar="FILE",
        help="File of questions: question.jsonl of Arena-Hard.")  # fmt: skip
    _declare_sides(arena, "answers", baseline=True)
    add("--version", choices=["0.1", "2.0"], default="0.1",
        help="Version of the benchmark. Default: 0.1.")  # fmt: skip
    turns = add_kind(benchmarks, "mt-bench", "MT-Bench: two turns, scores from 1 to 10")
    turns.add_argument(
        "--questions",
        type=Path,
        required=True,
        metavar="FILE",
        help="File of questions: question.jsonl of MT-Bench.",
    )
    _declare_sides(turns, "answers", baseline=False)
    rewards = add_kind(benchmarks, "reward-bench", "RewardBench: accuracy of the judge's scores")
    rewards.add_argument(
        "--items", type=Path, required=True, metavar="FILE", help="File of RewardBench items."
    )
    declare_judge_prompt(rewards)
    checks = add_kind(benchmarks, "ifeval", "IFEval: programs check verifiable instructions")
    checks.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="File of items: input_data.jsonl of IFEval.",
    )
    _declare_max_prompts(checks)
    _declare_sides(checks, "outputs", baseline=False)
    _declare_greedy_answers(checks)
    labelled = add_kind(
        benchmarks, "labelled-pairs", "agreement of the judge with human-labeled pairs (LLMBar)"
    )
    add = labelled.add_argument
    add("--data", type=Path, required=True, metavar="PATH",
        help="File whose rows have the fields input, output_1, output_2 and label, or a folder of "
             "such files.")  # fmt: skip
    _declare_max_prompts(labelled)
    add("--only", choices=["scores", "comparisons"],
        help="Judging mode: score each output separately, or compare the two outputs. Default: "
             "both modes.")  # fmt: skip
    declare_judge_prompt(labelled)
    judge = add_kind(benchmarks, "judge", "scores of the judge for any responses")
    add = judge.add_argument
    add("--responses", type=Path, metavar="FILE",
        help="File whose rows have the fields instruction, response and response_id.")  # fmt: skip
    add("--experiment", metavar="NAME",
        help="Experiment whose responses are judged, instead of --responses.")  # fmt: skip
    add("--iteration", type=parse_positive_int, metavar="N", help="Iteration of --experiment.")
    add("--reference", type=Path, metavar="FILE",
        help="File with the reference: scores, ranks, verdicts, or the export of an "
             "audit.")  # fmt: skip
    declare_reference_type(judge)
    declare_judge_prompt(judge)
    for name, benchmark in benchmarks.choices.items():
        if name != "ifeval":
            _declare_shared(benchmark, samples=5 if name in _SCORING else 1)


def _declare_max_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-prompts", type=parse_positive_int, metavar="N",
        help="Number of prompts whose items are used. The same prompts are selected as for the "
             "same number in evaluation.tasks. Default: all.")  # fmt: skip


_SCORING: Final = ("judge", "labelled-pairs", "reward-bench")
"""Benchmarks with several averaged scores per item."""


def _declare_greedy_answers(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a benchmark without a judge; responses are greedy."""
    add = parser.add_argument
    _declare_output_folder(parser)
    add("--max-new-tokens", type=parse_positive_int, default=2048, metavar="N",
        help="Maximum tokens per response. Default: 2048.")  # fmt: skip
    add("--system-prompt", metavar="TEXT", help="System prompt before each prompt.")
    add("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
        help="Engine setting to change for the model, such as dtype=bfloat16. "
             "Repeatable.")  # fmt: skip
    _declare_shard_size(parser)
    add("--seed", type=int, default=0, metavar="N", help="Random seed. Default: 0.")


def _declare_output_folder(parser: argparse.ArgumentParser) -> None:
    found = parser.add_argument("--output", type=Path, required=True, metavar="FOLDER",
        help="Output folder for scores.json and all other files. To resume an interrupted run, "
             "repeat the command with the same folder.")  # fmt: skip
    add_old_option(parser, "--out", found)
    parser.add_argument("--completion-cache", type=Path, metavar="FOLDER",
        help="Folder that stores completions for reuse in other runs of the same model, for "
        "example with another readout. Default: the subfolder `kept` of --output.")  # fmt: skip


def _declare_shard_size(parser: argparse.ArgumentParser) -> None:
    found = parser.add_argument("--shard-size", type=parse_positive_int, default=64, metavar="N",
        help="Number of conversations saved together, and thus the maximum that an interruption "
             "loses. Default: 64.")  # fmt: skip
    add_old_option(parser, "--shard", found)


def declare_reference_type(parser: argparse.ArgumentParser) -> None:
    """Declare the option for the type of a reference."""
    found = parser.add_argument("--reference-type", choices=["model", "humans"], default="model",
        help="Source of the reference; saved by --save-to. Default: model.")  # fmt: skip
    add_old_option(parser, "--reference-is", found)


def _declare_sides(parser: argparse.ArgumentParser, what: str, *, baseline: bool) -> None:
    for role in ("model", "baseline") if baseline else ("model",):
        either = parser.add_mutually_exclusive_group(required=True)
        either.add_argument(
            f"--{role}",
            metavar="ENGINE",
            help=f"{role.capitalize()} that generates responses: {_ENGINE}.",
        )
        either.add_argument(
            f"--{role}-{what}", type=Path, metavar="FILE", dest=f"{role}_file",
            help=f"File of existing responses of the {role}, instead of --{role}.",
        )  # fmt: skip
        parser.add_argument(f"--{role}-name", metavar="NAME", help=f"Display name of the {role}.")


def declare_judge_prompt(parser: argparse.ArgumentParser) -> None:
    """Declare the options for the judge's prompt, rubric, scale, and readout."""
    add = parser.add_argument
    add("--template", default="judge", metavar="NAME|FILE",
        help="Prompt template of the judge. Default: judge.")  # fmt: skip
    add("--rubric", default="rubric", metavar="NAME|FILE",
        help="Rubric inserted at {rubric}. Default: rubric.")  # fmt: skip
    found = add("--max-score", type=parse_top_score, default=MAX_SCORE, metavar="SCORE",
        help="Maximum score of the rubric. Default: 5.")  # fmt: skip
    add_old_option(parser, "--top-points", found)
    add("--score-readout", choices=["free", "forced", "expected"], default="free",
        help="How a score is read. free: from the text. forced: sampled after a given start of the "
        "score line. expected: as forced, but the probability-weighted mean of all scores. forced "
        "and expected need engine.kind=transformers or vllm, or a server that supports them. "
        "Default: free.")  # fmt: skip


def _declare_shared(parser: argparse.ArgumentParser, *, samples: int) -> None:
    add = parser.add_argument
    add("--judge", required=True, metavar="ENGINE", help=f"Judge: {_ENGINE}.")
    add("--judge-name", metavar="NAME", help="Display name of the judge.")
    _declare_output_folder(parser)
    add("--temperature", type=parse_temperature, default=0.0,
        help="Sampling temperature of responses. Default: 0 (greedy).")  # fmt: skip
    add("--top-p", type=parse_share, default=1.0,
        help="Probability mass of nucleus sampling for responses and judgments. "
             "Default: 1.")  # fmt: skip
    add("--max-new-tokens", type=parse_positive_int, default=2048, metavar="N",
        help="Maximum tokens per response. Default: 2048.")  # fmt: skip
    add("--system-prompt", metavar="TEXT", help="System prompt before each prompt.")
    default = 0.0 if samples == 1 else 0.8
    add("--judge-temperature", type=parse_temperature, default=default,
        help=f"Sampling temperature of judgments. Default: {default:g}.")  # fmt: skip
    tokens = add("--judge-max-new-tokens", type=parse_positive_int, default=1024, metavar="N",
        help="Maximum tokens per judgment. Default: 1024.")  # fmt: skip
    add("--samples", type=parse_positive_int, default=samples, metavar="N",
        help=f"Number of judgments per item. Default: {samples}.")  # fmt: skip
    add("--log-probabilities", type=int, default=0, metavar="N",
        help="Number of most likely tokens whose log-probabilities weight a verdict (vllm and "
             "openai only). Default: 0 (off).")  # fmt: skip
    add("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
        help="Engine setting to change for the model and the baseline, such as dtype=bfloat16. "
             "Repeatable.")  # fmt: skip
    add("--judge-set", dest="judge_changes", action="append", default=[], metavar="KEY=VALUE",
        help="Engine setting to change for the judge. Repeatable.")  # fmt: skip
    _declare_shard_size(parser)
    add("--seed", type=int, default=0, metavar="N", help="Random seed. Default: 0.")
    add_old_option(parser, "--judge-tokens", tokens)


def parse_temperature(text: str) -> float:
    """Parse a temperature."""
    number = float(text)
    if not 0 <= number <= MAX_TEMPERATURE:
        raise argparse.ArgumentTypeError(f"must be between 0 and {MAX_TEMPERATURE:g}")
    return number


def parse_top_score(text: str) -> float:
    """Parse the maximum of a scale."""
    number = float(text)
    if not 0 < number <= MAX_TOP_SCORE:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {MAX_TOP_SCORE:g}")
    return number


def parse_share(text: str) -> float:
    """Parse a share above 0 and up to 1."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return number


def run_benchmark(options: Options, roots: StorageRoots, console: Console) -> list[Scorecard]:
    """Run the requested benchmark, and write its metrics next to its files.

    Raises:
        InputError: an option is not valid.
        EngineError: an engine failed; the same command resumes.
    """
    out: Path = options["output"]
    with create_output_folder(out):
        cards = _RUNNERS[options["benchmark"]](options, _EngineFactory(options, roots, console))
    write_json(out / "scores.json", [serialize_scorecard(card) for card in cards])
    console.print(f"the files are in {escape(str(out))}", soft_wrap=True)
    return cards


class _EngineFactory:
    """Creates the engines of one command."""

    def __init__(self, options: Options, roots: StorageRoots, console: Console) -> None:
        self.roots = roots
        self._options = options
        self._console = console
        folder: Path = options["completion_cache"] or options["output"] / "kept"
        self._cache = ArtifactStore(str(folder))

    def make_run(self) -> BenchmarkRun:
        options = self._options
        judging = SamplingParams(
            options["judge_temperature"],
            options["top_p"],
            options["judge_max_new_tokens"],
            alternatives=options["log_probabilities"],
        )
        return BenchmarkRun(
            out=options["output"],
            judge=self._open(options["judge"], options["judge_name"], options["judge_changes"]),
            answering=SamplingParams(
                options["temperature"], options["top_p"], options["max_new_tokens"]
            ),
            judging=judging,
            samples=options["samples"],
            seed=options["seed"],
            make_progress=self.make_progress,
            system_prompt=options["system_prompt"],
        )

    def make_progress(self, step: str, total: int) -> Progress:
        return make_progress_printer(self._console, step, total)

    def open_side(self, role: str) -> OutputSource:
        options = self._options
        if options[f"{role}_file"] is not None:
            path: Path = options[f"{role}_file"]
            return path
        return self._open(options[role], options[f"{role}_name"], options["changes"])

    def _open(self, spec: str, name: str | None, changes: Sequence[str]) -> NamedEngine:
        return open_engine(
            spec,
            roots=self.roots,
            kept=self._cache,
            name=name,
            changes=changes,
            shard_conversations=self._options["shard_size"],
            say=lambda text: self._console.print(escape(text)),
        )


def make_progress_printer(console: Console, step: str, total: int) -> Progress:
    """Return a function that prints about twenty progress lines for this number of replies."""
    told = 0

    def print_progress(done: int, tokens: int) -> None:
        nonlocal told
        if done - told >= max(1, total // 20) or (done == total and told < total):
            told = done
            console.print(f"{step}: {done:,} of {total:,} replies, {tokens:,} tokens")

    return print_progress


def _load_judge_prompt(options: Options) -> JudgePrompt:
    required = frozenset({"instruction", "response"})
    template = load_template(options["template"], required=required)
    return JudgePrompt(
        template,
        load_template(options["rubric"]).text,
        options["max_score"],
        options["score_readout"],
    )


def _run_alpaca(options: Options, engines: _EngineFactory) -> list[Scorecard]:
    prompts = options["prompts"]
    texts, datasets = (None, {}) if prompts is None else _read_prompts_with_datasets(prompts)
    return [
        run_alpaca(
            engines.make_run(),
            instructions=texts,
            model=engines.open_side("model"),
            baseline=engines.open_side("baseline"),
            orders=options["orders"],
            datasets=datasets,
        )
    ]


def _read_prompts_with_datasets(path: Path) -> tuple[list[str], dict[str, str]]:
    """Read the prompts of a file, with their datasets if the file has a column for them."""
    found = read_prompts(path)
    found.require_good_rows(path.name)
    named = {
        prompt.text: found.extra.get(prompt.prompt_id, {}).get("dataset")
        for prompt in found.prompts
    }
    datasets = {text: name for text, name in named.items() if isinstance(name, str) and name}
    return [prompt.text for prompt in found.prompts], datasets


def _run_arena(options: Options, engines: _EngineFactory) -> list[Scorecard]:
    return run_arena(
        engines.make_run(),
        questions=options["questions"],
        model=engines.open_side("model"),
        baseline=engines.open_side("baseline"),
        version=options["version"],
    )


def _run_mt_bench(options: Options, engines: _EngineFactory) -> list[Scorecard]:
    return [
        run_mt_bench(
            engines.make_run(), questions=options["questions"], model=engines.open_side("model")
        )
    ]


def _run_reward_bench(options: Options, engines: _EngineFactory) -> list[Scorecard]:
    return [
        run_reward_bench(
            engines.make_run(), items=options["items"], words=_load_judge_prompt(options)
        )
    ]


def _run_ifeval(options: Options, engines: _EngineFactory) -> list[Scorecard]:
    run = IfEvalRun(
        out=options["output"],
        max_new_tokens=options["max_new_tokens"],
        system_prompt=options["system_prompt"],
        seed=options["seed"],
        make_progress=engines.make_progress,
    )
    card = run_ifeval(
        run,
        data=options["data"],
        side=engines.open_side("model"),
        max_prompts=options["max_prompts"],
    )
    return [replace(card, model=options["model_name"] or card.model)]


def _run_labelled_pairs(options: Options, engines: _EngineFactory) -> list[Scorecard]:
    words, only = _load_judge_prompt(options), options["only"]
    return [
        run_labelled_pairs(
            engines.make_run(),
            data=options["data"],
            templates=PromptTemplates(words.template, load_template("meta_judge"), words.rubric),
            max_score=words.max_score,
            readout=words.readout,
            questions=("scores", "comparisons") if only is None else (only,),
            max_prompts=options["max_prompts"],
        )
    ]


def _run_judge(options: Options, engines: _EngineFactory) -> list[Scorecard]:
    """Judge responses from a file or an iteration, and compare with a reference if given."""
    named, reference = options["experiment"], options["reference"]
    if (named is None) == (options["responses"] is None):
        raise InputError("pass either --responses, or --experiment and --iteration")
    if named is None:
        path = run_judge(
            engines.make_run(),
            read_judge_items(options["responses"]),
            words=_load_judge_prompt(options),
        )
    else:
        experiment = require_experiment(named, engines.roots)
        files = experiment.get_files(options["iteration"] or experiment.count_finished_iterations())
        path = run_judge(
            engines.make_run(), read_iteration_items(files), words=_load_judge_prompt(options)
        )
        if reference is None:
            return compare_on_own_responses(experiment, [path])
    return [] if reference is None else [compare_on_fixed_set(path, reference)]


_RUNNERS: Final[dict[str, Callable[[Options, _EngineFactory], list[Scorecard]]]] = {
    "alpaca": _run_alpaca,
    "arena": _run_arena,
    "mt-bench": _run_mt_bench,
    "reward-bench": _run_reward_bench,
    "ifeval": _run_ifeval,
    "labelled-pairs": _run_labelled_pairs,
    "judge": _run_judge,
}
