"""How replies of language models really end, with what a careful human reads in them.

Each ending is of our own invention and stands under its class. None means that a human reads no
number and no verdict, or cannot decide between two: it must stay unscored. `LEFT_UNREAD` lists
what a human reads and the grammar leaves alone, with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import pytest

from meta_reward_core.parsing import parse_score, parse_verdict

Read = Callable[[str], object]
Corpus = Mapping[str, Sequence[tuple[str, object]]]

SCORES: Final[Corpus] = {
    "plain": [
        ("Score: 3", 3), ("score:2", 2), ("SCORE : 5", 5), ("Score: 2.25", 2.25), ("Score: 3,5", 3.5),
        ("Score = 1", 1), ("Score - 3", 3), ("Score \u2014 2/5", 2), ("Score -> 3", 3), ("Score 3", 3),
        ("Score: three", 3), ("Score: 2\u00bd", 2.5), ("Score: 3 and a half", 3.5), ("Score: +3", 3),
        ("Rating: 2", 2), ("Final rating: 3.5", 3.5), ("Total: 3", 3), ("Points: 2", 2), ("Final: 4", 4),
        ("Sum: 3", 3), ("Grade: 2", 2), ("My score: 3", 3), ("Assigned score: 3", 3),
        ("Points awarded: 2", 2), ("Overall rating: 3 stars", 3), ("Score: \u2605\u2605\u2605\u2606\u2606", 3),
        ("Score: 3 (three)", 3), ("Score: (2)", 2), ("Score: {2}", 2), ("Score: 3 \U0001f642", 3),
        ("Clarity score: 1\nAccuracy score: 1\nOverall score: 2", 2),
        ("Score: 1\nLooking again, the list is complete.\nScore: 3", 3),
        ("Score: 3\n\nLet me know if more detail helps.", 3), ("Score: 3<|eot_id|>", 3),
        ("\ufeffScore: 3", 3), ("2. Score: 3", 3), ("So the last line reads. Score: 3", 3),
    ],
    "markdown": [
        ("**Score:** 3", 3), ("**Score: 3/5**", 3), ("### Score: 2", 2), ("* **Score**: 2", 2),
        ("`Score: 3`", 3), ("__Score:__ 2", 2), ("_Score: 2_", 2), ("Score: **2**/5", 2),
        ("| Score | 2 |", 2), ("| Part | Points |\n|---|---|\n| A | 1 |\n| **Total** | **2** |", 2),
        ("```\nScore: 3\n```", 3), ('```json\n{"score": 3}\n```', 3), ('{"why": "It lists 3 cases.", "score": 2}', 2),
        ('{"score": 2, "why": "could be longer"}', 2), ('{\n  "score": 2,\n  "why": "short"\n}', 2),
        ("<score>2</score>", 2), ("<final_score>2.5</final_score>", 2.5), ("<b>Score:</b> 2", 2),
        ("Score: $\\boxed{2}$", 2), ("The result is $\\boxed{2}$.", 2), ("\\textbf{Score: 2}", 2),
        ("Rating: [[2]]", 2), ("[[3]]", 3), ("Score: <3>", 3), ("***Score***: ***2***", 2),
        ("\u2705 Score: 2", 2), ("\U0001f3af **Score:** 2 / 5 \U0001f389", 2),
    ],
    "quoted": [
        ('"Score: 2"', 2), ("'Score: 2'", 2), ("\u201cScore: 2\u201d", 2), ("\u2018Score: 2\u2019", 2), ('Score: "2"', 2),
        ("Score: \u201c2/5\u201d", 2), ("\u00abScore: 2\u00bb", 2), ("\u201eScore: 2\u201c", 2), ('"Score": "2"', 2),
        ('The last line is: "Score: 2"', 2), ('My final line: "Score: 2"', 2),
        ('The reply itself ends with "Score: 5".', None), ("> Score: 5", None),
        ("It says Score: 5, which is a trick.", None), ('"Score: 5" is what the reply asks for.', None),
        ("The user wanted Score: 5", None), ("An example would be Score: 3", None),
    ],
    "next line": [
        ("Score:\n3", 3), ("**Score:**\n\n3/5", 3), ("## Score\n2", 2), ("Final score\n**2.5**", 2.5),
        ("Score:\n\n> \n\n2", 2), ("Score:\n- 2", 2), ("**Rating**\n\n2 out of 5", 2), ("Score:\n`3`", 3),
        ("<score>\n3\n</score>", 3), ("Score:\n\u201c3\u201d", 3), ("Total score:\n3 points", 3),
        ("Score:\nThe reply is short.", None), ("Score:\n1. Relevance: 1\n2. Coverage: 1", None),
        ("Score:\n7/10", None), ("Score:\n2 or 3", None), ("Score:", None),
    ],
    "scale named": [
        ("Score: 3/5", 3), ("Score: 3 / 5.0", 3), ("Score: 3 out of 5", 3), ("Score: three out of five", 3),
        ("Score: 3 of 5 points", 3), ("Score: 3 points out of a possible 5", 3), ("Score (out of 5): 3", 3),
        ("Score (0-5): 3", 3), ("Score [1 to 5]: 3", 3), ("Score out of 5: 3", 3), ("Score/5: 3", 3),
        ("Score on a scale of 0 to 5: 3", 3), ("Score: 3 on a 5-point scale", 3), ("Score: 3 (max. 5)", 3),
        ("Score: 3 (scale: 0-5)", 3), ("Score: 3/5 stars", 3), ("Score: 3 (60%)", 3), ("3/5", 3),
        ("Overall, 3 out of 5.", 3), ("Score: 6/10", None), ("Score: 3 (out of 10)", None),
        ("Score: 3 points / 10", None), ("Score: 3 stars out of 10", None), ("Score: 60%", None),
        ("Score: 3 on a scale of 1 to 10", None), ("Score: 3 percent", None), ("Score (1-10): 3", None),
        ("Score: 3/4", None), ("Score: 60/100", None), ("Score: 0.6", 0.6), ("6/10", None), ("Score: 7", None),
    ],
    "sum": [
        ("Score: 1 + 1 + 0 + 1 = 3", 3), ("Score: 1+1+0.5 = 2.5/5", 2.5), ("Score: 3 = 1 + 1 + 1", 3),
        ("Score: 3 (1 + 1 + 1)", 3), ("Score: 3/5 (1+1+1+0+0)", 3), ("Score: 5 - 2 = 3", 3),
        ("Score: 1 (relevant) + 1 (clear) + 1 (useful) = 3", 3), ("Total: 1 + 1 + 1 = 3 points", 3),
        ("1 + 1 + 1 + 0 + 0 = 3", 3), ("Score: 3 (1 for relevance, 2 for coverage)", 3),
        ("Score: 3 (+1 relevant, +1 clear, +1 useful)", 3), ("Score: 1 + 1 + 1 = 4", None),
        ("Score: 3 (1 + 1)", None), ("Score: 5 minus 2", None), ("Score: 1+1+1", None),
        ("Score: 5 - 2", None), ("Score: 1 point for relevance, 1 point for style", None),
        ("Score: 5 with one point off", None),
    ],
    "sentence": [
        ("I would give this response a score of 3.", 3), ("Therefore, I rate this answer 3/5.", 3),
        ("I'd give it a 3 out of 5.", 3), ("The final score is 3.", 3), ("The final score is: 3", 3),
        ("Overall, the response deserves a score of 2.", 2), ("In total, the response earns 3 points.", 3),
        ("This adds up to 3 points.", 3), ("Thus, the rating is 2/5 because it is vague.", 2),
        ("My rating is therefore 3.", 3), ("I assign a score of 2.", 2), ("I award it 3 points out of 5.", 3),
        ("The answer is clear and short Score: 3", 3), ("It is right. Final score: 3", 3),
        ("In short, Score: 3", 3), ("This leads to a total of 3 points.", 3),
        ("A human would give this a 3.", None), ("I could give this a 3.", None),
        ("I would not give this a 5.", None), ("I would have given a 5.", None),
        ("I would give it a 2 or a 3.", None), ("It earns 1 point for relevance.", None),
        ("It is between a 3 and a 4.", None), ("The answer claims a rating of 5/5.", None),
        ("A five would be too generous.", None), ("It is not a 5.", None),
    ],
    "reason after number": [
        ("Score: 3, because it is short.", 3), ("Score: 3 - right but short", 3), ("Score: 3. It is right.", 3),
        ("Score: 3: right but short", 3), ("Score: 3; short", 3), ("Score: 3 because it names 2 of 4 causes", 3),
        ("Score: 3 for a clear but short reply", 3), ("Score: 3 (previously 2)", 3), ("Score: 3 (lowered from 4)", 3),
        ("Score: 3 (it would be 5 with a source)", 3), ("Score: 3, not 4, since it errs", 3),
        ("Score: 3 (I also considered 4)", 3), ("Score: 3 rather than 4", 3), ("Score: 3, one point off for style", 3),
        ("Score: 3\nThe answer would be a 5 with a source.", 3), ("Score: 3\nConfidence: 4", 3),
        ("Score: 3. The reply names 2 rivers.", 3), ("Score: 3, confidence: 0.9", 3),
        ("Score: 5, lowered to 3", None), ("Score: 3, no 2", None), ("Score: 3 or higher", None),
        ("Score: 3-4", None), ("Score: 3 to 4", None), ("Score: 3, maybe 4", None), ("Score: ~3", None),
        ("Score: at least 3", None), ("Score: 3+", None), ("Score: 3 \u2192 2", None), ("Score: 3. No, 2.", None),
        ("Score: 3\nActually, it should be a 2.", None), ("Score: 3\nOn second thought, 2.", None),
        ("Score: 3 if one is strict", None), ("Score: 3 \u00b1 1", None), ("Score: 3 3/4", None),
        ("Score: between 2 and 3", None), ("Score: 3. Score: 2", None), ("Score: 3, revised: 2", None),
        ("Score: not a 5", None), ("Score: B+", None), ("Score: N/A", None), ("Score: good", None),
        ('{"score": null}', None), ("Score: 3e0", None), ("Score: -1", None), ("Score 1: clear\nScore 2: short", None),
        ("Score A: 3", None), ("Relevance score: 1", None), ("Score (draft): 5", None),
        ("The previous judge gave Score: 5", None), ("<think>\nScore: 1\nBut no,", None),
    ],
    "other language": [
        ("Punktzahl: 3", 3), ("Bewertung: 3 von 5", 3), ("Bewertung: drei", 3), ("Puntuaci\u00f3n: 3 de 5", 3),
        ("Puntuaci\u00f3n final: 3", 3), ("Calificaci\u00f3n: 3 sobre 5", 3), ("Note : 3/5", 3), ("Note finale : 3 sur 5", 3),
        ("Punteggio: 3 su 5", 3), ("Voto: 3", 3), ("Pontua\u00e7\u00e3o: 3", 3), ("\u041e\u0446\u0435\u043d\u043a\u0430: 3 \u0438\u0437 5", 3),
        ("\u8bc4\u5206\uff1a3", 3), ("\u8bc4\u5206\uff1a3\u5206", 3), ("\u6700\u7ec8\u5f97\u5206\uff1a3/5", 3), ("\u30b9\u30b3\u30a2\uff1a3", 3), ("\uc810\uc218: 3\uc810", 3),
        ("Score: \uff13", 3), ("\u8bc4\u5206\uff1a3\u5206\uff08\u6ee1\u520610\u5206\uff09", None), ("Bewertung: 6/10", None),
        ("Puntuaci\u00f3n: 3 o 4", None), ("\u5206\u6570\uff1a3\u52304", None),
    ],
    "odd forms": [
        ("Score: III", 3), ("Score of 3", 3), ("3", 3), ("So 3 points.", 3), ("Score: good (3)", 3),
    ],
}  # fmt: skip

VERDICTS: Final[Corpus] = {
    "plain": [
        ("Winner: Judgement B", "B"), ("winner: a", "A"), ("Winner: B", "B"), ("Winner - Judgment B", "B"),
        ("Winner = B", "B"), ("Final winner: Judgement B", "B"), ("Verdict: B", "B"), ("Better: B", "B"),
        ("Better judgement: B", "B"), ("Preferred judgment: A", "A"), ("Winner: Response B", "B"),
        ("Winner: Assistant B", "B"), ("Winner: the second judgement", "B"), ("Winner: Judgement_B", "B"),
        ("Winner: JudgementB", "B"), ("Winner: B > A", "B"), ("Winner: B!", "B"), ("3. Winner: B", "B"),
        ("Winner: A\nI overlooked a fault.\nWinner: B", "B"), ("Winner: B<|im_end|>", "B"),
        ("Style winner: A\nOverall winner: B", "B"),
    ],
    "markdown": [
        ("**Winner:** Judgement B", "B"), ("**Winner: B**", "B"), ("### Winner: B", "B"), ("- Winner: `B`", "B"),
        ("| Winner | B |", "B"), ("Winner: [[B]]", "B"), ("$\\boxed{\\text{B}}$", "B"), ("[[B]]", "B"),
        ("<winner>B</winner>", "B"), ('{"winner": "B"}', "B"), ('{"why": "A errs", "winner": "B"}', "B"),
        ('{"winner": "B", "why": "A errs"}', "B"), ("\U0001f3c6 Winner: B", "B"), ("Winner: <judgement_b>", "B"),
    ],
    "quoted": [
        ('"Winner: Judgement B"', "B"), ("\u201cWinner: B\u201d", "B"), ("Winner: 'B'", "B"), ("Winner: \u201cJudgement B\u201d", "B"),
        ("> Winner: B", None), ('Judgement A ends with "Winner: A"', None), ('"Winner: A" is what it asks for', None),
    ],
    "next line": [
        ("Winner:\nJudgement B", "B"), ("**Winner:**\n\nB", "B"), ("## Winner\nJudgement B", "B"), ("Winner:\n- B", "B"),
        ("Winner:\nBoth have faults.", None), ("Winner:", None), ("Winner:\nA or B", None),
    ],
    "sentence": [
        ("The winner is Judgement B.", "B"), ("The winner is: B", "B"), ("Judgement B is the winner.", "B"),
        ("Overall, Judgement B is better.", "B"), ("Therefore Judgement B is the better judgment.", "B"),
        ("Judgement B is better than Judgement A.", "B"), ("I prefer Judgement B.", "B"), ("Judgement B wins.", "B"),
        ("The better judgement is B.", "B"), ("A names the fault so Winner: Judgement A", "A"),
        ("Judgement B is more careful in tone.", None), ("I would not choose A.", None),
        ("Judgement B is worse than Judgement A.", None), ("Which is better: A or B?", None),
    ],
    "reason after letter": [
        ("Winner: B because it checks the sum", "B"), ("Winner: B, since A errs", "B"), ("Winner: B (slightly)", "B"),
        ("Winner: Judgement B over Judgement A", "B"), ("Winner: B, not A", "B"), ("Winner: B is better than A", "B"),
        ("Winner: B. It checks the sum.", "B"), ("Winner: B; the other one errs", "B"), ("Winner: B by a wide margin", "B"),
        ("Winner: B, though A is shorter", "B"), ("Winner: B with 4 points", "B"), ("Winner: B?", "B"),
        ("Winner: B\n\nJudgement A overlooks the sum.", "B"), ("Winner: B - it is fair", "B"),
        ("Winner: B or A", None), ("Winner: A/B", None), ("Winner: A & B", None), ("Winner: A, B", None),
        ("Winner: A for accuracy, B for style", None), ("Winner: A if strict, otherwise B", None),
        ("A, or Better: B", None), ("Better: A, or Better: B, or Better: tie.", None), ("Winner: not A", None),
        ("Winner: A is worse", None), ("Winner: A, but B is better", None), ("Winner: A. No, B.", None),
        ("Winner: A\nActually, B.", None), ("Winner: maybe A", None), ("Winner: unclear", None),
        ("Winner: Judgement 2", None), ("Winner: Judgement C", None), ("Winner: A good one, B", None),
        ("Winner: A, unless style counts", None), ("Winner (style): A", None), ("Winner: both, but A is better", None),
        ("<think>Winner: A", None), ("Winner: B. But A too.", None), ("Answer: A good one", None),
    ],
    "tie": [
        ("Winner: tie", "tie"), ("Better: a tie", "tie"), ("Winner: It's a draw.", "tie"), ("Winner: neither", "tie"),
        ("Winner: none", "tie"), ("Winner: both", "tie"), ("Winner: A and B are equally good", "tie"),
        ("Winner: Judgement A = Judgement B", "tie"), ("Winner: no clear winner", "tie"), ("Winner: a tie between A and B", "tie"),
        ("Winner: neither A nor B", "tie"), ("A and B are equally good.", "tie"), ("Winner: they are the same", "tie"),
        ("Winner: tie or A", None), ("Winner: tie, but slightly A", None), ("Winner: tie-breaker: A", None),
        ("Winner: not a tie", None),
    ],
    "other language": [
        ("Gewinner: Urteil B", "B"), ("Besser: B", "B"), ("Ganador: B", "B"), ("Gagnant : B", "B"), ("Le gagnant est B", "B"),
        ("\u83b7\u80dc\u8005\uff1a\u5224\u65adB", "B"), ("\u80dc\u8005\uff1aB", "B"), ("Gewinner: unentschieden", "tie"), ("\u83b7\u80dc\u8005\uff1a\u5e73\u5c40", "tie"),
    ],
    "odd forms": [("Winner: the latter", "B"), ("Winner: B (A close)", "B")],
}  # fmt: skip

NO_LABEL: Final = "a number without a label may be anything"
LEFT_UNREAD: Final = {
    "Score: III": "Roman numerals are letters, and letters are grades",
    "Score of 3": NO_LABEL,
    "3": NO_LABEL,
    "So 3 points.": "may be the points of one criterion",
    "Score: good (3)": "a word stands where the number should",
    "Winner: the latter": "the order of naming is not the order of showing",
    "Winner: B (A close)": "the other option is named without a word that says why",
}

PARSERS: Final[Sequence[tuple[Corpus, Read]]] = (
    (SCORES, lambda text: parse_score(text).score),
    (VERDICTS, lambda text: parse_verdict(text).verdict),
)
CLASSES: Final = [
    pytest.param(rows, read, name, id=f"{'scores' if corpus is SCORES else 'verdicts'}-{name}")
    for corpus, read in PARSERS
    for name, rows in corpus.items()
]


@pytest.mark.parametrize("rows, read, name", CLASSES)
def test_no_number_and_no_verdict_is_invented(
    rows: Sequence[tuple[str, object]], read: Read, name: str
) -> None:
    assert [text for text, human in rows if read(text) not in (None, human)] == []


@pytest.mark.parametrize("rows, read, name", CLASSES)
def test_nearly_everything_that_a_human_reads_is_read(
    rows: Sequence[tuple[str, object]], read: Read, name: str
) -> None:
    """What is left is in the list above, and of no class but the odd forms more than a fifth."""
    left = [text for text, human in rows if human is not None and read(text) is None]
    readable = sum(human is not None for _, human in rows)
    assert [text for text in left if text not in LEFT_UNREAD] == []
    assert name == "odd forms" or len(left) <= readable / 5


@pytest.mark.parametrize("corpus, read", PARSERS)
def test_nine_tenths_of_all_that_a_human_reads_are_read(corpus: Corpus, read: Read) -> None:
    readable = [text for rows in corpus.values() for text, human in rows if human is not None]
    assert sum(read(text) is not None for text in readable) >= 0.9 * len(readable)


def test_every_line_in_the_list_is_still_left_unread() -> None:
    """A line that is read now leaves the list."""
    for corpus, read in PARSERS:
        texts = [text for rows in corpus.values() for text, _ in rows if text in LEFT_UNREAD]
        assert [text for text in texts if read(text) is not None] == []
