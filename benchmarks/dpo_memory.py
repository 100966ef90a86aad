"""Peak memory and speed of a DPO step on long judge rows with a large vocabulary.

    python benchmarks/table.py dpo_memory

One pair of 2,048 tokens (1,448 in the prompt), a vocabulary of 128,000, a hidden size of 64: logits
dominate the memory, not weights. It compares our training with the earlier version, which used
TRL's tiles and computed the logits of prompts. Each run is a separate process; its peak is the
largest resident memory minus that before the training.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from table import Row, in_turn

MIB = 2**10  # unit of `ru_maxrss` (KiB)
PROMPT, REPLY, VOCABULARY, STEPS = 1448, 600, 128_000, 2


def make_model(folder: Path) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {
        word: number for number, word in enumerate(["<pad>", "<eos>", "<user>", "<assistant>"])
    }
    words |= {f"w{number}": number for number in range(len(words), VOCABULARY)}
    core = Tokenizer(WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = (
        "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} <eos> "
        "{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
    )
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    import torch

    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _write_words(first: int, count: int) -> str:
    """Return a text of `count` tokens minus those that the chat template adds."""
    return " ".join(f"w{4 + (first * 7919 + number * 31) % 120_000}" for number in range(count))


def train(model: Path, *, before: bool) -> dict[str, Any]:
    """Train `STEPS` steps of one pair; return metrics from the log and the system."""
    import time

    import torch

    from meta_reward_core.recipes.training_settings import DpoSettings
    from meta_reward_core.training import trainer_factories
    from meta_reward_core.training.dpo import train_dpo

    torch.set_num_threads(1)
    if before:
        patched: Any = trainer_factories
        patched.set_logit_tiles = lambda *_, **__: None
    rows: Any = [
        {
            "prompt": [{"role": "user", "content": _write_words(number, PROMPT - 3)}],
            "chosen": [{"role": "assistant", "content": _write_words(number + 50, REPLY - 1)}],
            "rejected": [{"role": "assistant", "content": _write_words(number + 90, REPLY - 1)}],
            "kind": "judge",
            "prompt_id": f"p{number}",
        }
        for number in range(STEPS)
    ]
    losses, ticks = [], [time.process_time()]

    def note(row: dict[str, float]) -> None:
        if "loss" in row:
            losses.append(row["loss"])
            ticks.append(time.process_time())

    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        train_dpo(
            rows,
            start=model,
            settings=DpoSettings(
                batch_size=1, device_batch_size=1, epochs=1, max_length=2048, dtype="float32",
                learning_rate=1e-3, warmup_ratio=0.0,
            ),
            checkpoint=Path(folder) / "m1",
            scratch=Path(folder) / "scratch",
            seed=1,
            on_log=note,
        )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    seconds = (ticks[-1] - ticks[1]) / (len(ticks) - 2)
    return {"peak": peak, "rate": 2 * (PROMPT + REPLY) / seconds, "losses": losses}


def _run(model: Path, *, before: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, str(model), "before" if before else "now"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(*, pairs: int) -> Iterator[Row]:
    runs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model")
        now: dict[str, Any] = {}

        def run_now() -> float:
            now.update(_run(model, before=False))
            return 0.0

        def run_before() -> float:
            runs.append((dict(now), _run(model, before=True)))
            return 0.0

        in_turn(run_now, run_before, pairs=pairs)
    difference = max(
        abs(mine - theirs)
        for one, other in runs
        for mine, theirs in zip(one["losses"], other["losses"], strict=True)
    )
    one, other = runs[-1]
    against = "the same with TRL's own tiles and the logits of prompts"
    yield Row(
        name="peak memory of a DPO step, vocabulary 128,000, a pair of 2,048 tokens, CPU",
        against=against,
        ratios=[then["peak"] / mine["peak"] for mine, then in runs],
        at_least=2,
        note=f"{one['peak'] / MIB:,.0f} MiB against {other['peak'] / MIB:,.0f} MiB above the "
        f"process before; losses differ by at most {difference:.1g}",
    )
    yield Row(
        name="tokens per second of that DPO step",
        against=against,
        ratios=[mine["rate"] / then["rate"] for mine, then in runs],
        at_least=1,
        note=f"{one['rate']:,.0f} against {other['rate']:,.0f} tokens per CPU second, 1 thread",
    )


if __name__ == "__main__":
    print(json.dumps(train(Path(sys.argv[1]), before=sys.argv[2] == "before")))
