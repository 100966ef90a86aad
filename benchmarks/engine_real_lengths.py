"""Judge and meta-judge stages at the size of SmolLM2-135M and at lengths of real prompts.

    python benchmarks/engine_real_lengths.py                   # the table's rows
    python benchmarks/engine_real_lengths.py --dtype bfloat16  # with AMX or AVX-512 BF16
    python benchmarks/engine_shapes.py --models 135M ...       # other sizes

A judge prompt has about 627 tokens (the built-in one with a short response, in SmolLM2's tokens),
with 4 prompts and 11 samples of 64 tokens. A meta-judge prompt has about 800. Weights are random:
the cost of a step does not depend on them, and replies rarely end early.
"""

import sys
from collections.abc import Iterator

from engine_shapes import measure_shapes, read_options
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
    options = read_options([*LENGTHS, *sys.argv[1:]], description=__doc__)
    for row in measure_shapes(options):
        print(format_row(row, measured="now"), flush=True)
