"""Judge and meta-judge stages at the size of SmolLM2-135M and at lengths of real prompts.

    python benchmarks/engine_real_lengths.py                   # the table's rows
    python benchmarks/engine_real_lengths.py --dtype bfloat16  # on a CPU with AMX or AVX-512 BF16
    python benchmarks/engine_shapes.py --models 135M ...       # other sizes

A judge prompt has about 627 tokens (the built-in one with a short response, in SmolLM2's tokens),
with 4 prompts and 11 samples of 64 tokens. A meta-judge prompt has about 800. Weights are random:
the cost of a step does not depend on them, and replies rarely end early.
"""

import argparse
from collections.abc import Iterator

from engine_shapes import BATCHES, measure_shapes, read_options
from table import Row, format_row

LENGTHS = (
    *("--models", "135M", "--new-tokens", "64"),
    *("--response-words", "294", "334", "--judgment-words", "48", "62"),
    *("--vllm-dtypes", "float32", "bfloat16"),
    *("--generate-judge-part", "2", "--generate-part", "11", "--batches", "1", "2"),
)


def measure(*, pairs: int) -> Iterator[Row]:
    """Yield rows of the table, measured with two threads of this CPU."""
    yield from measure_shapes(read_options([*LENGTHS, "--pairs", str(pairs)]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5, help="Pairs of runs per row.")
    parser.add_argument("--dtype", default="float32", help="Of our engine and of `generate`.")
    parser.add_argument(
        "--shapes", nargs="+", choices=BATCHES, default=list(BATCHES), help="Stages to measure."
    )
    chosen = parser.parse_args()
    arguments = [*LENGTHS, "--pairs", str(chosen.pairs), "--dtype", chosen.dtype]
    for row in measure_shapes(read_options([*arguments, "--shapes", *chosen.shapes])):
        print(format_row(row, measured="now"), flush=True)
