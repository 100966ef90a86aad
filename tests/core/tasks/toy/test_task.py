"""The miniature world: its language, prompts and seed data."""

import random
import re
from collections import Counter

import pytest

from meta_reward_core.tasks.toy import ground_truth, task
from meta_reward_core.tasks.toy import tokenizer as toy_tokenizer

SCORE = re.compile(r"Score:\s*(-?\d+(?:\.\d+)?)", re.IGNORECASE)
WINNER = re.compile(r"Winner:\s*Judge?ment\s+([AB])", re.IGNORECASE)
ROWS = list(task.generate_sft_rows(300, seed=3))


def content(row: dict[str, list[dict[str, str]]], side: str) -> str:
    """The text of a row's prompt or completion."""
    return row[side][0]["content"]


def test_no_two_words_of_the_lexicon_are_alike() -> None:
    """A word belongs to one slot, one meaning and one language."""
    words = [word for slot in task.LEXICON for row in slot for word in row]
    phrases = {word for phrase in task.PHRASES for word in phrase.split()}
    assert len(words) == len(set(words)) == 5 * 6 * 4
    assert phrases.isdisjoint(words)


def test_pool_and_held_out_prompts_never_meet() -> None:
    """Every prompt is on one side of the split, and none is drawn twice."""
    pool = task.sample_pool_prompts(20_000, seed=1)
    held_out = task.sample_held_out_prompts(2_000, seed=1)
    assert len(set(pool)) == 20_000
    assert len(set(held_out)) == 2_000
    assert set(pool).isdisjoint(held_out)


def test_asking_for_more_prompts_than_there_are_is_refused() -> None:
    """The pool is finite and says so."""
    with pytest.raises(ValueError, match="larger than population"):
        task.sample_pool_prompts(30_000, seed=1)


def test_the_same_seed_gives_the_same_data() -> None:
    """All randomness comes from the seed."""
    assert list(task.generate_sft_rows(300, seed=3)) == ROWS
    assert list(task.generate_sft_rows(300, seed=4)) != ROWS
    assert task.generate_gate_comparisons(20, seed=1) == task.generate_gate_comparisons(20, seed=1)


def test_seed_rows_never_show_a_held_out_instruction() -> None:
    """Evaluation prompts stay unseen in all three roles."""
    for row in ROWS:
        lines = content(row, "prompt").splitlines()
        instruction = next(line for line in lines if line.startswith("Translate"))
        assert not task.is_held_out(instruction)
    assert set(Counter(row["task"] for row in ROWS)) == {"actor", "judge", "meta_judge"}


def test_every_judgment_states_its_score_and_every_comparison_its_winner() -> None:
    """The last line of each reply is what the loop's parsers look for."""
    for row in ROWS:
        last = content(row, "completion").splitlines()[-1]
        if row["task"] == "judge":
            assert SCORE.fullmatch(last)
        if row["task"] == "meta_judge":
            assert WINNER.fullmatch(last)


def test_a_judgment_counts_its_own_verdicts() -> None:
    """Verdicts yes, no, yes, yes, no make a tally of 1 1 2 3 3 and a score of 3."""
    rng = random.Random(0)
    draft = task.draft_judged_response(rng, task.sample_pool_prompts(1, seed=0)[0])
    text = task.write_judgment(draft, (True, False, True, True, False))
    assert [line.split()[-1] for line in text.splitlines()] == ["1;", "1;", "2;", "3;", "3;", "3"]


def test_a_noiseless_meta_judge_names_the_judgment_with_fewer_errors() -> None:
    """With no noise the stated winner is the better one, in both orders."""
    rng = random.Random(0)
    draft = task.draft_judged_response(rng, task.sample_pool_prompts(1, seed=0)[0])
    worse = tuple(not right for right in draft.right)
    for pair, winner in (((draft.right, worse), "A"), ((worse, draft.right), "B")):
        text = task.write_meta_judgment(rng, draft, *pair, noise=0.0)
        assert WINNER.findall(text) == [winner]


def test_the_seed_judge_favours_the_longer_of_two_equally_good_responses() -> None:
    """At equal words, the most verbose response collects more yes than the tersest."""
    rng = random.Random(0)
    items = (task.draft_judged_response(rng, p) for p in task.sample_pool_prompts(4000, seed=0))
    yes: dict[tuple[int, int], list[int]] = {}
    for draft in items:
        said = task.sample_verdicts(rng, draft, task.SEED_JUDGE_NOISE)
        yes.setdefault((sum(draft.right), draft.phrases), []).append(sum(said))
    for quality in range(task.SLOTS + 1):
        terse, verbose = yes[quality, 0], yes[quality, task.MAX_PHRASES]
        assert sum(verbose) / len(verbose) > sum(terse) / len(terse) + 0.5


def test_a_misconception_is_the_same_meaning_in_a_sibling_language() -> None:
    """Each language errs on three words a slot, with a word of the same row."""
    for language in task.LANGUAGES:
        for slot, rows in enumerate(task.LEXICON):
            believed = {row: task.get_misconception(language, slot, row[0]) for row in rows}
            wrong = {row: word for row, word in believed.items() if word is not None}
            assert len(wrong) == task.MISCONCEIVED_WORDS_A_SLOT
            for row, word in wrong.items():
                assert word in row[1:]
                assert word != task.translate_word(language, row[0])


def test_gate_rows_are_balanced_and_truly_ordered() -> None:
    """A and B are better equally often, and the oracle agrees with each label."""
    rows = task.generate_gate_comparisons(60, seed=2)
    assert Counter(row.better for row in rows) == {"A": 30, "B": 30}
    for row in rows:
        assert task.is_held_out(row.instruction)
        better = ground_truth.pick_better_judgment(
            row.instruction, row.response, row.judgment_a, row.judgment_b
        )
        assert better == row.better


def test_held_out_judge_items_cover_qualities_and_lengths() -> None:
    """Every quality from 0 to 5 occurs, terse and verbose, as the oracle scores it."""
    items = task.sample_held_out_judge_items(200, seed=2)
    assert {quality for _, _, quality in items} == {0, 1, 2, 3, 4, 5}
    assert min(len(r.split()) for _, r, _ in items) == 5
    assert max(len(r.split()) for _, r, _ in items) > 15
    assert all(ground_truth.compute_true_quality(i, r) == quality for i, r, quality in items)


def test_vocabulary_is_fixed_and_holds_every_word_of_the_world() -> None:
    """Token ids never depend on a hash, and nothing that the world writes is unknown."""
    words = toy_tokenizer.build_vocabulary()
    assert len(words) == len(set(words))
    assert words[:5] == toy_tokenizer.SPECIAL_TOKENS
    assert words == toy_tokenizer.build_vocabulary()
    text = " ".join(content(row, side) for row in ROWS for side in ("prompt", "completion"))
    assert set(text.split()) <= set(words)


def test_decoded_text_encodes_to_the_same_tokens_and_keeps_its_lines() -> None:
    """Replies are pasted into later prompts as text, so the round trip must be exact."""
    pytest.importorskip("transformers")
    tokenizer = toy_tokenizer.build_tokenizer()
    for row in ROWS:
        text = content(row, "completion")
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer(tokenizer.decode(ids))["input_ids"] == ids


def test_chat_template_is_prefix_stable() -> None:
    """A prompt with its generation mark is a prefix of prompt and reply, ended once."""
    pytest.importorskip("transformers")
    tokenizer = toy_tokenizer.build_tokenizer()
    row = ROWS[0]
    prompt = tokenizer.apply_chat_template(
        row["prompt"], add_generation_prompt=True, return_dict=False
    )
    whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)
    reply = tokenizer(content(row, "completion"))["input_ids"]
    assert whole == prompt + reply + [tokenizer.eos_token_id]


def test_model_is_tiny_and_knows_its_special_tokens() -> None:
    """Fewer than a million parameters, and the tokenizer's ids."""
    transformers = pytest.importorskip("transformers")
    config, tokenizer = toy_tokenizer.build_model_config(), toy_tokenizer.build_tokenizer()
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id
    assert len(tokenizer) == config.vocab_size
    model = transformers.LlamaForCausalLM(config)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
