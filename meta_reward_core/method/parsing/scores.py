"""The grammar of scores.

    score   = label [note] separator value tail
    value   = (number | sum "=" number | stars | "four") [scale]
    scale   = "/" top | ["points"] "out of" top | "on a scale of" low "to" top | "(max" top ")"
    note    = "(" scale ")"
    tail    = nothing, or a reason without another score (see `statements.is_upheld`)

On the last line a score may also be a sentence ("I would give this response a score of 4."), a box
(`[[4]]`, a box of LaTeX) or a value with its scale and nothing else (`4/5`).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from meta_reward_core.method.parsing.outcomes import (
    MIN_SCORE,
    SCORE_NOT_A_NUMBER,
    SCORE_ON_ANOTHER_SCALE,
    SCORE_OUT_OF_RANGE,
)
from meta_reward_core.method.parsing.reading import Grammar, Reading
from meta_reward_core.method.parsing.statements import (
    CONCLUDING,
    CONNECTORS,
    QUALIFIERS,
    Label,
    LabelWords,
    TailRules,
    Tokens,
    find_sentence_start,
    is_end,
    is_reported,
    is_upheld,
    skip,
    strip_full_stop,
)
from meta_reward_core.method.parsing.tokens import make_word_set

LABELS: Final = LabelWords(
    strong=make_word_set(
        "баллы valutazione poäng betyg wynik cijfer beoordeling score rating bewertung "
        "punktzahl gesamtpunktzahl gesamtbewertung puntuación puntuacion calificación "
        "puntaje punteggio pontuação оценка балл ocena puan 评分 評分 得分 分数 總分 总分 "
        "打分 評価 点数 スコア 得点 점수 평점 총점"
    ),
    weak=make_word_set(
        "final total overall sum points point marks mark grade verdict result evaluation "
        "assessment judgment judgement answer note nota punkte gesamt wertung ergebnis voto"
    ),
    after=frozenset({"points", "value"}),
    units=frozenset({"points", "point", "marks", "mark", "total", "overall", "punkte"}),
)

_NUMBER_WORDS: Final = {
    "zero": 0.0, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0, "six": 6.0,
    "seven": 7.0, "eight": 8.0, "nine": 9.0, "ten": 10.0, "eins": 1.0, "zwei": 2.0,
    "drei": 3.0, "vier": 4.0, "fünf": 5.0, "cero": 0.0, "uno": 1.0, "dos": 2.0, "tres": 3.0,
    "cuatro": 4.0, "cinco": 5.0, "deux": 2.0, "trois": 3.0, "quatre": 4.0, "cinq": 5.0,
    "零": 0.0, "一": 1.0, "二": 2.0, "三": 3.0, "四": 4.0, "五": 5.0,
}  # fmt: skip
_SELDOM_SCORES: Final = make_word_set("one uno dos 一")
"""Number words that mean something else in most sentences."""

_BEFORE_VALUE: Final = make_word_set(
    "therefore thus hence is a an the exactly solid strong clear full"
)
_UNITS: Final = make_word_set(
    "point points pt pts mark marks star stars punkt punkte punkten puntos punto punti "
    "pontos баллов балла 分 点 점"
)
_OUT_OF: Final = make_word_set(
    "/ of out sobre из from von sur de di su auf on max maximum 满分 満点"
)
_SCALE_WORDS: Final = _UNITS | make_word_set(
    "/ of out sobre из from von sur de di su auf on a an the to scale scored max "
    "maximum maximal possible best total overall final score 满分 満点 up additive "
    "between rating range ranging for this response answer"
)
_PERCENT: Final = frozenset({"%", "percent", "prozent", "pct"})
_CONNECTORS: Final = CONNECTORS | {"total", "exactly", "awarded"}
_EXCUSES: Final = make_word_set(
    "considered considering previously formerly earlier before was were would not than from instead"
)
"""Words after which another number is only compared with the score and does not replace it."""

_NUMBERS_A_PART: Final = make_word_set(
    "criterion criteria step steps point points line paragraph section item items rule "
    "number part level question turn"
)
_NOT_COUNTED: Final = (
    _UNITS
    | _PERCENT
    | CONCLUDING
    | make_word_set(
        "or and to out of because as if is would for in at then but since with due instead "
        "rather maybe though score not"
    )
)
_GIVES: Final = make_word_set(
    "say give rate award assign score grade gives rates awards assigns giving rating"
)
_EARNS: Final = make_word_set(
    "leads results adds sums amounts gets earns receives deserves merits scores makes "
    "totals is rated awarded scored assigned given"
)
_SUBJECTS: Final = (
    QUALIFIERS
    | CONCLUDING
    | make_word_set(
        "i we i'd i'll i'm will would shall can it that which in by on based above these "
        "criteria considerations reasons reason for analysis have has been be all taken "
        "together considering everything according to is justification points rationale"
    )
)
_OBJECTS: Final = QUALIFIERS | make_word_set(
    "to in up it a an as at with of score rating grade full solid strong is total points"
)


def make_score_grammar(max_score: float) -> Grammar[float]:
    """Build the grammar for a rubric whose scale ends at `max_score`."""
    return Grammar(
        labels=LABELS,
        read=partial(_read_labelled, max_score),
        read_closing=partial(_read_closing, max_score),
        read_alone=partial(_read_closing, max_score),
        rules=partial(_make_tail_rules, max_score),
        unreadable=SCORE_NOT_A_NUMBER,
    )


def _read_labelled(
    max_score: float,
    tokens: Tokens,
    label: Label,
) -> Reading[float] | None:
    """Read a score after its label; None if the label names something else."""
    note = _read_note(label.note)
    if note is None:
        return None
    reading = _read_points(tokens, max_score, is_strict=label.is_strict)
    if reading.value is None and not label.is_firm:
        return None
    if label.is_weak and not _is_bounded(tokens, reading.end):
        return None
    if not note.is_consistent(reading.value, max_score):
        return Reading(None, SCORE_ON_ANOTHER_SCALE, reading.end)
    return reading


def _is_bounded(tokens: Tokens, end: int) -> bool:
    """Whether no word directly follows a value: "Result: 4 claims are wrong" is not a score."""
    return end == len(tokens) or tokens[end].kind == "mark" or tokens[end - 1].text in _UNITS


@dataclass(frozen=True, slots=True)
class _Note:
    """Contents of a note or a bracket: the end of the scale, or the terms of a sum."""

    top: float | None = None
    total: float | None = None

    def is_consistent(self, value: float | None, max_score: float) -> bool:
        """Whether a score can be on the rubric's scale."""
        if self.total is not None and value is not None:
            return _is_same(self.total, value)
        return self.top in (None, max_score)


def _read_note(tokens: Tokens) -> _Note | None:
    """Read a scale, a sum, or words without either; None for anything else."""
    numbers = [token.value for token in tokens if token.kind == "number"]
    total = _sum_signed(tokens) if len(numbers) > 1 else None
    if (
        total is not None
        and all(token.kind != "word" for token in tokens)
        and "-" not in {token.text for token in tokens}
    ):
        return _Note(total=total)
    said = {token.text for token in tokens if token.kind == "word"}
    if not said <= _SCALE_WORDS:
        return None
    if not numbers:
        return _Note()
    is_range = len(numbers) == 2 and numbers[0] in (0, 1)
    return _Note(top=numbers[-1]) if len(numbers) == 1 or is_range else None


def _read_points(tokens: Tokens, max_score: float, *, is_strict: bool) -> Reading[float]:
    """Read a score, its scale, and whether later words retract it."""
    place = _skip_opening(tokens)
    value, end = _read_sum(tokens, place) or _read_number(tokens, place) or (None, place)
    if value is None:
        return Reading(None, SCORE_NOT_A_NUMBER, place)
    while (scale := _read_scale(tokens, end) or _read_terms(tokens, end, value)) is not None:
        note, end = scale
        if not note.is_consistent(value, max_score):
            return Reading(None, SCORE_ON_ANOTHER_SCALE, end)
        if tokens[end - 1].kind == "number" and tokens[end : end + 1] and tokens[end].text == "/":
            return Reading(None, SCORE_NOT_A_NUMBER, end)
    tail = tokens[end:]
    if is_strict:
        is_final = is_end(tail, _CLOSING_WORDS)
    else:
        is_final = _is_whole(tail, is_top=value == max_score) and is_upheld(
            tail, _make_tail_rules(max_score, value)
        )
    if not is_final:
        return Reading(None, SCORE_NOT_A_NUMBER, end)
    if not MIN_SCORE <= value <= max_score:
        return Reading(None, SCORE_OUT_OF_RANGE, end)
    return Reading(abs(value), None, end)


_CLOSING_WORDS: Final = frozenset({"in", "total", "overall"})


_DEDUCTS: Final = make_word_set(
    "off deduct deducted deducting deduction deductions dock docked penalty subtract "
    "subtracted subtracting minus bonus"
)
_BEGINS_REASON: Final = make_word_set("its being a an the this that their having")


def _is_whole(tail: Tokens, *, is_top: bool) -> bool:
    """Whether a number is the total: not "1 for relevance", not "5 with one point off"."""
    said = [token.text for token in tail if token.kind == "word"]
    if said[:1] == ["for"]:
        return not _BEGINS_REASON.isdisjoint(said[1:2])
    is_apart = bool(tail) and tail[0].kind == "mark"
    return _DEDUCTS.isdisjoint(said) or (is_apart and not is_top)


def _skip_opening(tokens: Tokens) -> int:
    place = 0
    while place < len(tokens) and (
        tokens[place].text in '()":=|' or tokens[place].text == "[[" or _is_filler(tokens, place)
    ):
        place += 1
    return place


def _is_filler(tokens: Tokens, place: int) -> bool:
    token = tokens[place]
    return token.kind == "word" and token.text in _BEFORE_VALUE and not token.is_capital


Amount = tuple[float | None, int]
"""A value (None if unreadable) and the index of the first token after it."""


def _read_number(tokens: Tokens, place: int) -> Amount | None:
    """Read a signed number, a number word, or stars; None if there is none."""
    if place + 1 < len(tokens) and tokens[place].text in ("+", "-"):
        sign, number = tokens[place], tokens[place + 1]
        if number.kind != "number" or number.start != sign.end or number.value is None:
            return None
        return (-number.value if sign.text == "-" else number.value), place + 2
    value = _get_value_at(tokens, place)
    if value is None:
        return None
    if tokens[place].kind == "stars":
        return _read_stars(tokens, place, value)
    after = [token.text for token in tokens[place + 1 : place + 4]]
    return (value + 0.5, place + 4) if after == ["and", "a", "half"] else (value, place + 1)


def _read_stars(tokens: Tokens, place: int, count: float) -> Amount:
    """Read a row of stars, which can decorate or repeat the number after it."""
    number = _get_value_at(tokens, place + 1)
    if number is None:
        return count or None, place + 1
    return (number if count in (1, number) else None), place + 2


def _get_value_at(tokens: Tokens, place: int) -> float | None:
    """Return the value of a number, a number word or stars; None for any other token."""
    if place >= len(tokens):
        return None
    token = tokens[place]
    return _NUMBER_WORDS.get(token.text) if token.kind == "word" else token.value


def _read_sum(tokens: Tokens, place: int) -> Amount | None:
    """Read a sum and its total, in either order; None if there is no sum.

    Terms may have words between them ("1 (relevance) + 1 (coverage) = 2"). A total that differs
    from the sum is unreadable.
    """
    middle = next((n for n in range(place, len(tokens)) if tokens[n].text == "="), None)
    if middle is None or (total := _read_number(tokens, middle + 1)) is None:
        return None
    terms = _sum_signed(tokens[place:middle])
    end = total[1]
    while end + 1 < len(tokens) and tokens[end].text == "+" and tokens[end + 1].value is not None:
        end += 2
    right = _sum_signed(tokens[middle + 1 : end])
    if terms is None or right is None or not _is_same(terms, right):
        return None, end
    return right, end


def _sum_signed(tokens: Tokens) -> float | None:
    """Sum the numbers; None if there is none, or two are not joined by a plus or a minus."""
    total: float | None = None
    for place, token in enumerate(tokens):
        if token.kind != "number":
            continue
        sign = tokens[place - 1].text if place else "+"
        if token.value is None or (total is not None and sign not in ("+", "-")):
            return None
        total = (total or 0.0) + (-token.value if sign == "-" and place else token.value)
    return total


def _read_scale(tokens: Tokens, place: int) -> tuple[_Note, int] | None:
    """Read a unit or the scale of a number, and return the index after it."""
    opens = skip(tokens, place, '"')
    if opens < len(tokens) and tokens[opens].text == "(":
        return _read_bracket(tokens, opens)
    place = skip(tokens, place, '"', ")")
    if place == len(tokens):
        return None
    text = tokens[place].text
    if tokens[place].kind == "word" and text in _UNITS | {"scale", "possible"}:
        return _Note(), place + 1
    if text in _PERCENT:
        return _Note(top=100.0), place + 1
    return _read_top(tokens, place) if text in _OUT_OF else None


_LONGEST_SCALE: Final = 14
_MARKS_OF_SCALE: Final = frozenset({"-", "/", "+", ",", ".", ":", '"'})


def _read_bracket(tokens: Tokens, place: int) -> tuple[_Note, int] | None:
    """Read a scale or a sum in brackets; None for any other bracket."""
    end = place + 1
    while end < min(len(tokens), place + _LONGEST_SCALE) and tokens[end].text != ")":
        end += 1
    inside = tokens[place + 1 : end]
    numbers = [token for token in inside if token.kind == "number"]
    marks = {token.text for token in inside if token.kind == "mark"}
    if not numbers or len(inside) == 1 or not marks <= _MARKS_OF_SCALE:
        return None
    note = _read_note(inside)
    return None if note is None else (note, end + 1)


def _read_terms(tokens: Tokens, place: int, value: float) -> tuple[_Note, int] | None:
    """Read a bracket that lists the terms of a score: "(1 for relevance, 2 for coverage)"."""
    if place == len(tokens) or tokens[place].text != "(":
        return None
    end = next((n for n in range(place, len(tokens)) if tokens[n].text == ")"), len(tokens))
    inside = tokens[place + 1 : end]
    terms = [token.value for token in inside if token.kind == "number"]
    known = [term for term in terms if term is not None]
    is_sum = 1 < len(known) == len(terms) and _is_same(sum(known), value)
    is_listed = not any(token.text in _NOT_A_LIST for token in inside)
    return (_Note(), end + 1) if is_sum and is_listed else None


_NOT_A_LIST: Final = make_word_set(
    "or to now not revised corrected final instead rather if / - % ->"
)


def _read_top(tokens: Tokens, place: int) -> tuple[_Note, int] | None:
    """Read the end of a scale: "/ 5", "out of a possible 5", "on a scale of 1 to 5"."""
    end = place + 1
    while end < min(len(tokens), place + _LONGEST_SCALE) and (
        tokens[end].text in _SCALE_WORDS or tokens[end].text in ('"', "(")
    ):
        end += 1
    top = _get_value_at(tokens, end)
    if top is None:
        return None
    if end + 2 < len(tokens) and tokens[end + 1].text in ("-", "to"):
        high = _get_value_at(tokens, end + 2)
        if high is not None:
            return (_Note(top=high if top in (0, 1) else None), end + 3)
        if tokens[end + 2].text in _UNITS:
            return _Note(top=top), end + 3
    return _Note(top=top), end + 1


def _is_same(value: float, other: float) -> bool:
    return abs(value - other) < 1e-9


def _make_tail_rules(max_score: float, value: float) -> TailRules:
    return TailRules(partial(_is_rival, max_score, value), _EXCUSES, _CONNECTORS)


def _is_rival(max_score: float, value: float, tokens: Tokens, place: int) -> bool:
    """Whether a token is another score, not a count, a part's number or a scale."""
    token = tokens[place]
    is_number = token.kind in ("number", "stars")
    if not is_number and (token.text in _SELDOM_SCORES or token.text not in _NUMBER_WORDS):
        return False
    number = _get_value_at(tokens, place)
    is_inside = any(other.text == "(" for other in tokens[:place])
    if number is not None and _is_same(number, value) and is_inside:
        return False
    before = tokens[place - 1].text if place else ""
    if before in _NUMBERS_A_PART or before == "+" or _is_field(tokens, place):
        return False
    return not _is_counted(tokens, place) and not _is_share(tokens, place, value / max_score)


def _is_field(tokens: Tokens, place: int) -> bool:
    """Whether a number belongs to another named field: `"confidence": 0.9`."""
    colon = place - 1
    name = colon - 1
    while name > 0 and tokens[name].text == '"':
        name -= 1
    if name < 0 or tokens[colon].text != ":" or tokens[name].kind != "word":
        return False
    return tokens[name].text not in LABELS.strong | LABELS.weak | CONCLUDING | QUALIFIERS


def _is_counted(tokens: Tokens, place: int) -> bool:
    """Whether a number counts things: "3 examples", "a 100-word limit"."""
    after = tokens[place + 1 : place + 3]
    if after and after[0].text == "-" and after[0].start == tokens[place].end:
        after = after[1:]
    if after and after[0].text == "of" and _get_value_at(tokens, place + 2) is not None:
        return _is_counted(tokens, place + 2)
    return bool(after) and after[0].kind == "word" and after[0].text not in _NOT_COUNTED


def _is_share(tokens: Tokens, place: int, share: float) -> bool:
    """Whether a number repeats the score on another scale, "80%" or "8/10", or ends that scale."""
    number = _get_value_at(tokens, place)
    text = [token.text for token in tokens[place + 1 : place + 2]]
    if number is None:
        return False
    if text and text[0] in _PERCENT:
        return _is_same(number / 100, share)
    if text == ["/"]:
        return _is_ratio(number, _get_value_at(tokens, place + 2), share)
    if place > 1 and tokens[place - 1].text == "/":
        return _is_ratio(_get_value_at(tokens, place - 2), number, share)
    return False


def _is_ratio(part: float | None, whole: float | None, share: float) -> bool:
    return part is not None and bool(whole) and _is_same(part / (whole or 1.0), share)


def _read_closing(
    max_score: float,
    tokens: Tokens,
) -> Reading[float] | None:
    """Read a last line without a label: a box, a value with only its scale, or a sentence."""
    readings = _read_boxes(tokens, max_score) or [
        reading
        for reading in (_read_bare(tokens, max_score), _read_sentence(tokens, max_score))
        if reading is not None
    ]
    values = {reading.value for reading in readings}
    if not readings or values == {None}:
        return None
    return readings[0] if len(values) == 1 else Reading(None, SCORE_NOT_A_NUMBER)


def _read_boxes(tokens: Tokens, max_score: float) -> list[Reading[float]]:
    """Read the scores in boxes, unless the text attributes them to another author."""
    boxes = [place for place, token in enumerate(tokens) if token.text == "[["]
    if not boxes or is_reported(tokens[: boxes[0]]):
        return []
    stops = [*boxes[1:], len(tokens)]
    readings = [
        _read_points(tokens[start:stop], max_score, is_strict=stop == len(tokens))
        for start, stop in zip(boxes, stops, strict=True)
    ]
    sentence = find_sentence_start(tokens, boxes[0])
    return [replace(reading, start=sentence) for reading in readings]


def _read_bare(tokens: Tokens, max_score: float) -> Reading[float] | None:
    """Read `4/5`, "Overall, 4 out of 5", `1 + 1 + 1 = 3` or stars, alone on a line."""
    start = 0
    while start < len(tokens) and (
        tokens[start].text in CONCLUDING or tokens[start].text in ("in", ",", ":", "(", '"', "a")
    ):
        start += 1
    first = tokens[min(start, len(tokens) - 1)]
    has_scale = any(token.text in ("/", "of", "=") for token in tokens)
    if first.kind == "stars" or (has_scale and first.kind == "number"):
        reading = _read_points(tokens[start:], max_score, is_strict=True)
        return reading if reading.value is not None else None
    return None


def _read_sentence(tokens: Tokens, max_score: float) -> Reading[float] | None:
    """Read "Therefore, I would give this response a score of 4."."""
    tokens = strip_full_stop(tokens)
    start = find_sentence_start(tokens, len(tokens))
    sentence = tokens[start:]
    verb = next((n for n, token in enumerate(sentence) if token.text in _GIVES | _EARNS), None)
    if not verb or not _are_words_of(sentence[:verb], _SUBJECTS):
        return None
    place = verb + 1
    while place < len(sentence) and (
        sentence[place].text in _OBJECTS or sentence[place].text in '":'
    ):
        place += 1
    reading = _read_points(sentence[place:], max_score, is_strict=True)
    said = {token.text for token in sentence}
    if "would" in said and not said.isdisjoint({"have", "be", "been"}):
        return None
    names_whole = _is_whole_score(sentence, sentence[verb].text, reading.value or 0.0)
    return replace(reading, start=start) if reading.value is not None and names_whole else None


def _are_words_of(tokens: Tokens, allowed: frozenset[str]) -> bool:
    return all(
        token.text in allowed if token.kind == "word" else token.text in ',":' for token in tokens
    )


def _is_whole_score(sentence: Tokens, verb: str, value: float) -> bool:
    """Whether a sentence states the total score, not that of one criterion ("1 point")."""
    said = {token.text for token in sentence}
    if said & (CONCLUDING | {"score", "rating", "/", "of"}) or verb in ("adds", "sums", "amounts"):
        return True
    return not said & _UNITS or (value > 1 and "points" in said)
