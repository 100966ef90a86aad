"""Split human-ranked answers into training data, held-out data and prompts.

Reads rows of `prompt_text, response_text, quality_score` (OpenAssistant 2 in one file) and writes

    ranked.jsonl      best and worst answer of each training prompt, for `build_eft --ranked`
    responses.jsonl   answers of the held-out prompts, for `evaluate run judge --responses`
    reference.jsonl   human ratings of them, for `evaluate run judge --reference`
    held_out.jsonl    the held-out prompts, for `--held-out`
    prompts.jsonl     all other prompts, for `run_iteration --prompts`

A hash of its text determines whether a prompt is held out. Only short prompts and answers with
clearly different human ratings are used, which makes the task cheaper and easier.
"""

import argparse
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from meta_reward_core.data.tabular_io import read_rows, write_json_lines

_MAX_PROMPT_CHARS: Final = 300
_HELD_OUT_SHARE: Final = 0.3


def main() -> None:
    """Read, split and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranked", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--train-prompts", type=int, default=48)
    parser.add_argument("--held-out-prompts", type=int, default=40)
    parser.add_argument("--max-chars", type=int, default=400, help="of an answer")
    parser.add_argument(
        "--min-gap", type=float, default=0.3, help="Minimum distance between best and worst rank."
    )
    options = parser.parse_args()
    prompts = _read_prompts(options.ranked, options.max_chars)
    clear = [p for p in prompts if _compute_gap(prompts[p]) >= options.min_gap]
    held_out = [p for p in clear if _hash_share(p) < _HELD_OUT_SHARE][: options.held_out_prompts]
    training = [p for p in clear if _hash_share(p) >= _HELD_OUT_SHARE][: options.train_prompts]
    used = {*held_out, *training}
    options.output.mkdir(parents=True, exist_ok=True)
    _write(options.output / "ranked.jsonl", [
        {"instruction": p, "response": text, "score": score}
        for p in training for text, score, _ in (prompts[p][0], prompts[p][-1])
    ])  # fmt: skip
    chosen = [(p, *answer) for p in held_out for answer in prompts[p]]
    _write(options.output / "responses.jsonl", [
        {"prompt_id": _hash(p), "instruction": p, "response": text, "response_id": name}
        for p, text, _, name in chosen
    ])  # fmt: skip
    _write(options.output / "reference.jsonl", [
        {"prompt_id": _hash(p), "response_id": name, "score": 5 * score}
        for p, _, score, name in chosen
    ])  # fmt: skip
    _write(options.output / "held_out.jsonl", [{"prompt": p} for p in held_out])
    _write(options.output / "prompts.jsonl", [{"prompt": p} for p in prompts if p not in used])


def _read_prompts(path: Path, max_chars: int) -> dict[str, list[tuple[str, float, str]]]:
    """Return the answers of each prompt, best first, in the order of the prompts' hashes."""
    found: defaultdict[str, list[tuple[str, float, str]]] = defaultdict(list)
    for row in read_rows(path):
        prompt, score = row.read_text("prompt_text"), row.read_number("quality_score")
        answers = found[prompt]
        text = row.read_text("response_text")
        if score is not None and len(text) <= max_chars:
            answers.append((text, score, row.read_name("response_id")))
    return {
        prompt: sorted(found[prompt], key=lambda answer: (-answer[1], answer[2]))
        for prompt in sorted(found, key=_hash)
        if len(prompt) <= _MAX_PROMPT_CHARS
    }


def _compute_gap(answers: list[tuple[str, float, str]]) -> float:
    return answers[0][1] - answers[-1][1] if len(answers) > 1 else 0.0


def _hash(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()


def _hash_share(prompt: str) -> float:
    """Hash a prompt to a number in [0, 1)."""
    return int(_hash(prompt)[-8:], 16) / 16**8


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    write_json_lines(path, rows)
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
