"""ROUGE-L of words, against a computation of its own."""

from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.data.prompt_filters import NearDuplicateIndex

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "g"]), min_size=1, max_size=9)


def rouge_l(one: list[str], other: list[str]) -> float:
    """F1 = 2 LCS / (m + n); LCS by the textbook's table."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
            )
    return 2 * table[-1][-1] / (len(one) + len(other))


@given(WORDS, WORDS)
def test_it_is_rouge_l(one: list[str], other: list[str]) -> None:
    found = NearDuplicateIndex([" ".join(other)], rouge_threshold=0.001).find(" ".join(one))
    expected = rouge_l(one, other)
    assert (found[1] if found else 0.0) == expected or abs((found or ("", 0))[1] - expected) < 1e-9


def test_the_most_similar_one_is_named() -> None:
    known = NearDuplicateIndex(["Write a poem about autumn.", "Name three rivers in Asia."])
    found = known.find("write a poem about  Autumn!")
    assert found == ("Write a poem about autumn.", 1.0)
    assert known.find("What is the capital of Peru?") is None
    known.add("What is the capital of Peru?")
    assert known.find("What is the capital of Chile?") is not None  # 5 of 6 words: 0.83


def test_scripts_without_blanks_are_compared_by_characters() -> None:
    known = NearDuplicateIndex(["写一首关于秋天的诗"])
    assert known.find("写一首关于春天的诗") is not None
    assert known.find("中国最长的河是哪条") is None
