"""The grammar of verdicts: A, B, a tie, or unreadable.

    verdict  = label separator value tail
    value    = option | tie | option ("and" option) ... tie | option (">" | "=" | "<") option
    option   = ["the"] ["judgement"] ("A" | "B") | "the first" | "the second"
    tie      = "tie" | "draw" | "equal" | "both" | "neither" | "none" | "no winner" ...
    tail     = nothing, or a reason that does not claim the other option

On the last line a verdict may also be a sentence ("Judgement A is the better one.") or a box
(`[[A]]`), and a reply that consists only of an option is a verdict. The grammar is used for the
meta-judge, the AlpacaEval annotator and, through `read_mark`, the Arena-Hard judge.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from meta_reward_core.method.parsing.outcomes import WINNER_NOT_READABLE
from meta_reward_core.method.parsing.reading import Grammar, Lines, Reading
from meta_reward_core.method.parsing.statements import (
    CONCLUDING,
    CONNECTORS,
    QUALIFIERS,
    Label,
    LabelWords,
    TailRules,
    Tokens,
    get_last_sentence,
    is_end,
    is_reported,
    is_upheld,
    skip,
    strip_full_stop,
)
from meta_reward_core.method.parsing.tokens import make_word_set
from meta_reward_core.models.reasoning import extract_finished_part
from meta_reward_core.storage.records import Verdict

_NOUNS: Final = make_word_set(
    "giudizio judgement judgment judge answer response assistant option output model "
    "candidate evaluation assessment review reply version text choice critique urteil "
    "bewertung antwort jugement réponse juicio respuesta evaluación opción 判断 评判 "
    "评价 评审 回答 答案 助手 判定 평가"
)
LABELS: Final = LabelWords(
    strong=make_word_set(
        "winnaar 优胜者 winner better gewinner sieger ganador ganadora gagnant vainqueur "
        "vincitore vencedor победитель besser mejor meilleur meilleure 获胜者 優勝者 勝者 "
        "胜者 赢家 胜出者 승자 更好"
    ),
    weak=make_word_set(
        "selected chosen winning verdict decision preference preferred best pick choice "
        "result conclusion answer urteil entscheidung veredicto 裁决 结论"
    ),
    after=_NOUNS | {"one"},
)

_BEFORE_OPTION: Final = make_word_set(
    "with the is it it's clearly definitely slightly narrowly marginally by der die das el la le"
)
_BEFORE_TIE: Final = _BEFORE_OPTION | make_word_set(
    "a an there there's they are their this clear true perfect complete absolute exact "
    "close of result judgements judgments answers responses ein eine un une"
)
_TIES: Final = make_word_set(
    "tie tied ties draw drawn neither none both equal equally equals same identical "
    "equivalent unentschieden gleichstand beide keiner keines gleich égalité aucun "
    "empate ninguno ambos pareggio 平局 平手 引き分け 무승부"
)
_NO_WINNER: Final = frozenset({"winner", "clear", "difference", "preference", "better"})
_CLAIMS: Final = make_word_set("winner wins won better best preferred preferable superior stronger")
_DENIALS: Final = make_word_set(
    "not worse wrong weaker inferior incorrect less isn't wasn't never hardly barely also"
)
_ONLY_ONE: Final = make_word_set(
    "but though although however slightly leaning lean leans edge prefer better favor favour closer"
)
_BREAKS: Final = frozenset({"breaker", "breaking", "break", "or", "?"})
_EXCUSES: Final = make_word_set(
    "instead because since as than over not unlike whereas while although though due "
    "given beats compared against"
)
_CONNECTORS: Final = CONNECTORS | make_word_set(
    "more better less is was wins won over slightly narrowly marginally clearly "
    "definitely does has gives"
)
_VERBS: Final = make_word_set("is was has wins does gives misses ignores fails makes seems would")
_NO_NOUNS: Final = _VERBS | {"and", "or", "nor"}
_IN_NOTE: Final = QUALIFIERS | _NOUNS | {"a", "b", "or", "of", "tie", "two", "both"}
_LEADS: Final = (
    QUALIFIERS
    | CONCLUDING
    | make_word_set(
        "i think believe would in for these reasons reason on based above all this analysis "
        "comparison i'd by"
    )
)
_CHOOSES: Final = make_word_set("go choose prefer pick select favor favour")

Option = tuple[Verdict, int]
"""A verdict, and the index of the first token after it."""


def _read_labelled(
    tokens: Tokens,
    label: Label,
) -> Reading[Verdict] | None:
    """Read a verdict after its label; None if the label names something else."""
    if any(token.kind == "word" and token.text not in _IN_NOTE for token in label.note):
        return None
    reading = _read_verdict(tokens, is_strict=label.is_strict)
    if reading.value is None and not label.is_firm:
        return None
    if label.is_weak and not _is_bounded(tokens, reading.end):
        return None
    return reading


def _is_bounded(tokens: Tokens, end: int) -> bool:
    """Whether the following text confirms that it is a value; not in "Answer: A good one"."""
    return end >= len(tokens) or tokens[end].kind == "mark" or tokens[end].text in _CONNECTORS


def _read_verdict(tokens: Tokens, *, is_strict: bool) -> Reading[Verdict]:
    """Read an option or a tie, and whether it is not retracted."""
    tie = _read_tie(tokens)
    if tie is not None:
        is_final = is_end(tokens[tie:]) if is_strict else _is_plain_tie(tokens[tie:])
        return Reading("tie", None, tie) if is_final else Reading(None, WINNER_NOT_READABLE, tie)
    option = _read_comparison(tokens) or _read_option(tokens, 0)
    if option is None:
        return Reading(None, WINNER_NOT_READABLE)
    verdict, end = option
    tail = tokens[end:]
    if not is_strict and _is_shared(verdict, tail):
        return Reading("tie", None, end)
    is_final = (
        is_end(tail) if is_strict else _is_won(tail) and is_upheld(tail, _make_tail_rules(verdict))
    )
    return Reading(verdict, None, end) if is_final else Reading(None, WINNER_NOT_READABLE, end)


def _read_tie(tokens: Tokens) -> int | None:
    """Return the index after the words for a tie; None if there are none."""
    place = 0
    while place < len(tokens) and (
        tokens[place].text in _BEFORE_TIE or tokens[place].text in '(":|[['
    ):
        place += 1
    if place == len(tokens) or tokens[place].kind != "word":
        return None
    if tokens[place].text == "no" and place + 1 < len(tokens):
        return place + 2 if tokens[place + 1].text in _NO_WINNER else None
    return place + 1 if tokens[place].text in _TIES else None


def _is_plain_tie(tail: Tokens) -> bool:
    """Whether a word states a tie: not "tie or A", "tie-breaker: A", "both, but A is better"."""
    place = skip(tail, 0, ",", "-", "(", '"')
    if place < len(tail) and tail[place].text in _BREAKS:
        return False
    named = {letter for n in range(len(tail)) if (letter := _get_letter_at(tail, n)) is not None}
    chains = {_compare(token.text) for token in tail if token.kind == "chain"}
    if len(named) == 1 or chains - {"tie"}:
        return False
    return not (named and any(token.text in _ONLY_ONE for token in tail))


def _read_option(tokens: Tokens, place: int) -> Option | None:
    """Read one of the two options, by letter or by position."""
    while place < len(tokens) and (
        tokens[place].text in _BEFORE_OPTION or tokens[place].text in ("(", '"', ":", "|", "[[")
    ):
        place += 1
    has_noun = place < len(tokens) and tokens[place].text in _NOUNS
    if has_noun:
        place = skip(tokens, place + 1, "(", '"', ":", "[[")
    if place == len(tokens) or tokens[place].kind != "word":
        return None
    text = tokens[place].text
    if text in ("a", "b"):
        return ("A" if text == "a" else "B"), place + 1
    if text in ("first", "second") and not has_noun:
        end = skip(tokens, place + 1, *_NOUNS, "one")
        return ("A" if text == "first" else "B"), end
    return None


def _read_comparison(tokens: Tokens) -> Option | None:
    """Read `A > B` or `Judgement A = Judgement B`."""
    place = skip(tokens, 0, "(", '"', ":", "|", "[[")
    if place < len(tokens) and tokens[place].kind == "chain":
        verdict = _compare(tokens[place].text)
        return None if verdict is None else (verdict, place + 1)
    first = _read_option(tokens, 0)
    if first is None:
        return None
    sign = skip(tokens, first[1], ")", '"')
    if sign == len(tokens) or tokens[sign].text not in "<=>":
        return None
    second = _read_option(tokens, skip(tokens, sign, "<", "=", ">"))
    if second is None or second[0] == first[0]:
        return None
    verdict = _compare(f"{first[0]}{tokens[sign].text}{second[0]}")
    return None if verdict is None else (verdict, second[1])


def _compare(chain: str) -> Verdict | None:
    """Return the winner of `A>B`, `A>>B`, `B<A` or `A=B`; None for any other chain."""
    first, sign, second = chain[0], chain[1:-1], chain[-1]
    if first == second or len(sign) > 2:
        return None
    if "=" in sign:
        return "tie"
    return "A" if (first == "A") == (">" in sign) else "B"


def _is_shared(verdict: Verdict, tail: Tokens) -> bool:
    """Whether "and B are equally good" follows A."""
    place = skip(tail, 0, ")", '"')
    if place == len(tail) or tail[place].text not in ("and", "&", ",", "/", "与", "和"):
        return False
    other = _read_option(tail, place + 1)
    if other is None or other[0] == verdict:
        return False
    rest = [token.text for token in tail[other[1] :]]
    is_tie = any(text in _TIES for text in rest)
    return is_tie and _DENIALS.isdisjoint(rest) and _ONLY_ONE.isdisjoint(rest)


def _is_won(tail: Tokens) -> bool:
    """Whether the words directly after an option do not deny its win: not "is worse"."""
    place = skip(tail, 0, ")", '"')
    if place < len(tail) and tail[place].text in ("is", "was", "does", "has"):
        return all(token.text not in _DENIALS for token in tail[place + 1 : place + 4])
    return True


def _make_tail_rules(verdict: Verdict) -> TailRules:
    return TailRules(partial(_is_rival, verdict), _EXCUSES, _CONNECTORS)


def _is_rival(verdict: Verdict, tokens: Tokens, place: int) -> bool:
    if tokens[place].kind == "chain":
        return _compare(tokens[place].text) != verdict
    letter = _get_letter_at(tokens, place)
    return letter not in (None, verdict) and not _is_faulted(tokens, place)


_FAULTS: Final = make_word_set("wrong worse weaker incorrect flawed too less inferior mistaken")
_ERRS: Final = make_word_set("errs misses ignores overlooks lacks fails contradicts invents loses")


def _is_faulted(tokens: Tokens, place: int) -> bool:
    """Whether an option is named for its fault: "B errs", "Judgement B is wrong"."""
    after = [token.text for token in tokens[place + 1 : place + 4]]
    if after[:1] in (["is"], ["was"]):
        return not _FAULTS.isdisjoint(after[1:]) and "not" not in after
    return not _ERRS.isdisjoint(after[:1])


def _get_letter_at(tokens: Tokens, place: int) -> Verdict | None:
    """Return the option that a letter names; None for the article "a"."""
    token = tokens[place]
    if token.text not in ("a", "b") or token.kind != "word":
        return None
    before = _skip_back(tokens, place)
    has_noun = before is not None and tokens[before].text in _NOUNS
    if not has_noun and (not token.is_capital or _is_article(tokens, place)):
        return None
    return "A" if token.text == "a" else "B"


def _skip_back(tokens: Tokens, place: int) -> int | None:
    """Return the index of the token before `place`, ignoring brackets and quotation marks."""
    place -= 1
    while place >= 0 and tokens[place].text in ("(", '"'):
        place -= 1
    return place if place >= 0 else None


def _is_article(tokens: Tokens, place: int) -> bool:
    """Whether a capital A at the start of a sentence is an article."""
    if tokens[place].text != "a" or (place and tokens[place - 1].text not in ".!?:"):
        return False
    after = tokens[place + 1 : place + 2]
    return bool(after) and after[0].kind == "word" and after[0].text not in _NO_NOUNS


def _read_closing(tokens: Tokens) -> Reading[Verdict] | None:
    """Read a last line without a label: a box or a sentence."""
    boxes = list(_read_boxes(tokens))
    if boxes:
        return boxes[0] if len({box.value for box in boxes}) == 1 else _UNREADABLE
    verdict = _read_sentence(tokens)
    return None if verdict is None else Reading(verdict, None, len(tokens))


def _read_alone(tokens: Tokens) -> Reading[Verdict] | None:
    """Read a completion of one line: any closing line, or just an option."""
    closing = _read_closing(tokens)
    if closing is not None or (tokens[-1].kind == "word" and not tokens[-1].is_capital):
        return closing
    reading = _read_verdict(tokens, is_strict=True)
    return None if reading.value is None else reading


_UNREADABLE: Final[Reading[Verdict]] = Reading(None, WINNER_NOT_READABLE)


def _read_boxes(tokens: Tokens) -> Iterator[Reading[Verdict]]:
    """Read the verdicts in boxes, unless the text attributes them to another author."""
    for place, token in enumerate(tokens):
        if token.text == "[[" and not is_reported(tokens[:place]):
            end = next((n for n in range(place, len(tokens)) if tokens[n].text == ")"), place)
            reading = _read_verdict(tokens[place:end], is_strict=True)
            if reading.value is not None:
                yield replace(reading, end=len(tokens))


def _read_sentence(tokens: Tokens) -> Verdict | None:
    """Read "Overall, Judgement A is the better one." or "I prefer Judgement B."."""
    sentence = get_last_sentence(strip_full_stop(tokens))
    place = 0
    while place < len(sentence) and (
        (sentence[place].text in _LEADS and sentence[place].text not in _NOUNS)
        or sentence[place].text in ',"('
    ):
        place += 1
    chooses = place < len(sentence) and sentence[place].text in _CHOOSES
    option = _read_option(sentence, place + chooses)
    if option is None:
        return None
    verdict, after = option
    is_named = sentence[after - 1].is_capital or any(
        token.text in _NOUNS for token in sentence[max(0, after - 2) : after]
    )
    rest = _remove_other(verdict, sentence[after:])
    if is_named and not chooses and _is_shared(verdict, sentence[after:]):
        return "tie"
    is_claim = _is_claim(rest) or (chooses and not rest)
    return verdict if is_named and is_claim else None


def _remove_other(verdict: Verdict, rest: Tokens) -> Tokens:
    """Remove "than Judgement B" at the end of a statement about an option."""
    for place, token in enumerate(rest):
        if token.text in ("than", "over", "to"):
            other = _read_option(rest, place + 1)
            if other is not None and other[0] != verdict and is_end(rest[other[1] :]):
                return rest[:place]
    return rest


_IN_CLAIM: Final = make_word_set("is the a clear clearly slightly much far one overall")


def _is_claim(rest: Tokens) -> bool:
    """Whether words only state that an option won."""
    said = [token.text for token in rest if token.text not in (")", '"')]
    if not any(word in _CLAIMS for word in said):
        return False
    return all(word in _IN_CLAIM or word in _CLAIMS or word in _NOUNS for word in said)


VERDICT_GRAMMAR: Final[Grammar[Verdict]] = Grammar(
    labels=LABELS,
    read=_read_labelled,
    read_closing=_read_closing,
    read_alone=_read_alone,
    rules=_make_tail_rules,
    unreadable=WINNER_NOT_READABLE,
)


def read_mark(text: str) -> str | None:
    """Read the last comparison in brackets, `[[A>>B]]` or `[A>B]`, without spaces and in capitals.

    Double brackets take precedence over single ones, as in the public tool. Marks in an open
    reasoning block do not count.

    Returns:
        None if there is no mark, or if the last mark in double brackets is not a comparison
        (`[[A]]`) or is one of several alternatives ("[[A>B]] or [[A=B]]").
    """
    reply = extract_finished_part(text)
    if reply is None:
        return None
    lines = Lines(reply)
    for is_double in (True, False):
        for number in lines.iter_filled(range(len(lines.texts) - 1, -1, -1)):
            line, tokens = lines.texts[number], lines.get_tokens(number)
            marks = list(_get_marks(line, tokens, is_double=is_double))
            if marks:
                return None if _is_one_of_several(tokens, marks) else marks[-1][1]
    return None


def _get_marks(line: str, tokens: Tokens, *, is_double: bool) -> Iterator[tuple[int, str]]:
    """Return the index of the opening bracket and the content of each mark of a line."""
    for place in range(len(tokens) - 2):
        opens, content, closes = tokens[place : place + 3]
        is_open = opens.text == "[[" if is_double else line[opens.start] == "["
        is_mark = content.kind == "chain" or (is_double and content.text in ("a", "b"))
        if is_open and is_mark and closes.text == ")":
            yield place, content.text.upper()


def _is_one_of_several(tokens: Tokens, marks: Sequence[tuple[int, str]]) -> bool:
    """Whether the last two marks differ and are listed next to each other as alternatives."""
    if len(marks) < 2 or marks[-1][1] == marks[-2][1]:
        return False
    between = tokens[marks[-2][0] + 2 : marks[-1][0]]
    return all(token.text in ("or", "/", ",", "|", ")", '"') for token in between)
