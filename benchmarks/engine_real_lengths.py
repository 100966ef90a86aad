"""Judge and meta-judge stages at the size of SmolLM2-135M and at lengths of real prompts.

    python benchmarks/engine_real_lengths.py              # the table's rows
    python benchmarks/engine_shapes.py --models 135M ...  # other sizes

A judge's prompt has about 627 tokens, as the shipped one has in SmolLM2's tokens with a short
response; 4 prompts, 11 samples of 64 tokens. A meta-judge's prompt has about 800. Weights are
random: what a step costs does not depend on them, and hardly a reply ends early.
"""

from collections.abc import Iterator

from engine_shapes import measure_shapes, read_options
from table import Row, format_row

LENGTHS = (
    *("--models", "135M", "--new-tokens", "64"),
    *("--response-words", "294", "334", "--judgment-words", "48", "62"),
    *("--vllm-dtypes", "float32", "bfloat16"),
)


def measure(*, pairs: int) -> Iterator[Row]:
    """Rows of the table, on two threads of this CPU."""
    yield from measure_shapes(read_options([*LENGTHS, "--pairs", str(pairs)]))


if __name__ == "__main__":
    for row in measure(pairs=5):
        print(format_row(row, measured="now"), flush=True)
