"""New prompts by a scripted engine: filters, reasons, examples."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.data.prompt_filters import (
    HeldOutPrompts,
    check_languages,
    compute_held_out_key,
    is_in_language,
)
from meta_reward_core.data.prompt_generation import (
    PLACEHOLDERS,
    FewShotSettings,
    GenerationResult,
    PromptFilters,
    find_drop_reason,
    generate_prompts,
    parse_task,
)
from meta_reward_core.engines.base import Conversation, SamplingParams
from meta_reward_core.engines.scripted import Reply, Script, ScriptedEngine
from meta_reward_core.errors import InputError
from meta_reward_core.recipes.prompt_templates import load_template

SUBJECTS = ["rivers", "trains", "poems", "numbers", "bread", "maps", "clouds", "chess", "soil"]
SEEDS = [f"Explain to a child what {subject} are made for." for subject in SUBJECTS]
TEMPLATE = load_template("self_instruct", required=PLACEHOLDERS, allowed=PLACEHOLDERS)
NO_FILTER = PromptFilters(languages=(), rouge_threshold=1.0, min_chars=1)


def generate(
    script: Script, *, count: int = 5, filters: PromptFilters = NO_FILTER
) -> GenerationResult:
    shots = FewShotSettings(
        template=TEMPLATE, sampling=SamplingParams(0.6, 0.9, 40), requests=2, samples=2
    )
    return generate_prompts(
        ScriptedEngine(script), SEEDS, count=count, shots=shots, filters=filters, seed=4
    )


def numbered(conversation: Conversation, sample: int, seed: int) -> Reply:
    return f"Sure. <task>task {len(conversation[0]['content'])} {sample} {seed}</task>"


def test_eight_examples_are_shown_six_of_them_seeds_as_soon_as_there_are_others() -> None:
    asked: list[str] = []

    def remember(conversation: Conversation, sample: int, seed: int) -> Reply:
        asked.append(conversation[0]["content"])
        return f"<task>own task number {len(asked)} here</task>"

    generate(remember, count=6)
    first, last = asked[0], asked[-1]
    assert [sum(seed in text for seed in SEEDS) for text in (first, last)] == [8, 6]
    assert last.count("<task>\nown task") == 2
    assert first.count("<task>\n") == 8


def test_made_and_left_out_are_all_replies() -> None:
    replies: Iterator[Reply] = iter(
        [
            "no marks at all",
            "<task>a good new task</task>",
            ("<task>never closed", "length"),
            ("the prompt is too long", "refused"),
            f"<task>{SEEDS[0].upper()}</task>",
            "<task> </task>",
            "<task>a GOOD new task!</task>",
            *[f"<task>task of its own {n}</task>" for n in range(9)],
        ]
    )
    found = generate(lambda conversation, sample, seed: next(replies), count=3)
    assert found.counts == {
        "near_duplicate": 2, "no_task_marked": 1, "cut_off": 1, "prompt_refused": 1,
        "not_usable": 1,
    }  # fmt: skip
    assert found.replies == len(found.prompts) + len(found.left_out)
    assert found.prompts[0][0].text == "a good new task"
    assert [other for _, reason, other in found.left_out if reason == "near_duplicate"] == [
        SEEDS[0], "a good new task",
    ]  # fmt: skip


def test_the_same_seed_makes_the_same_prompts() -> None:
    assert generate(numbered) == generate(numbered)


def test_a_model_that_repeats_itself_ends_with_what_there_is() -> None:
    found = generate(lambda conversation, sample, seed: "<task>always this task</task>", count=9)
    assert len(found.prompts) == 1
    assert found.rounds == 4  # one with a new prompt, three without
    assert found.counts == {"near_duplicate": 15}


def test_what_is_held_out_is_never_made_nor_shown() -> None:
    held = HeldOutPrompts.from_texts(["What  is the LONGEST river?", SEEDS[0]])
    asked: list[str] = []

    def script(conversation: Conversation, sample: int, seed: int) -> Reply:
        asked.append(conversation[0]["content"])
        return "<task>what is the longest river?</task>"

    found = generate(
        script, filters=PromptFilters(held_out=held, languages=(), rouge_threshold=1.0)
    )
    assert found.counts == {"held_out": 12}
    assert not any(SEEDS[0] in text for text in asked)


def test_too_few_seeds_are_refused() -> None:
    held = HeldOutPrompts.from_texts(SEEDS[:2])
    with pytest.raises(InputError, match="only 7 seed prompts are not held out"):
        generate(numbered, filters=PromptFilters(held_out=held))


@pytest.mark.parametrize(
    "text, reason",
    [
        ("Write a short poem about the sea.", None),
        ("Why?", "too_short"),
        ("Why? " * 20, "too_long"),
        ("Schreibe bitte ein kurzes Gedicht über das Meer.", "other_language"),
        ("a null \x00 byte in a text", "not_usable"),
        ("Keep this one out, please.", "held_out"),
    ],
)
def test_each_filter_has_its_reason(text: str, reason: str | None) -> None:
    filters = PromptFilters(
        max_chars=60, held_out=HeldOutPrompts.from_texts(["keep THIS one  out, please."])
    )
    assert find_drop_reason(text, filters) == reason


def test_what_belongs_to_no_language_is_kept() -> None:
    assert all(is_in_language(text, ["en"]) for text in ("2+2=?", "hi", "def f(x): return x"))
    assert is_in_language("Écris une lettre à ta grand-mère.", ["en", "fr"])
    assert not is_in_language("写一首关于秋天的诗，不要太长。", ["en"])
    with pytest.raises(InputError, match="unknown language xx"):
        check_languages(["en", "xx"])


def test_the_last_marked_task_counts() -> None:
    assert parse_task("<task>one</task> or <TASK>\n two \n</TASK>") == "two"
    assert parse_task("none") is None


@given(st.text(min_size=1))
def test_a_held_out_prompt_is_known_again(text: str) -> None:
    held = HeldOutPrompts.from_texts([text])
    assert text in held
    assert f"  {text}\n" in held
    assert compute_held_out_key(text) == compute_held_out_key(f"\t{text} ")


def test_a_held_out_prompt_is_named_by_its_exact_hash_too() -> None:
    assert HeldOutPrompts.from_texts(["Why?"]).prompt_ids == {compute_prompt_id("Why?")}
