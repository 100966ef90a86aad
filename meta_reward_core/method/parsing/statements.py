"""Find where a line states a score or verdict, and whether later words retract it.

A statement is a label ("Final score"), a separator (":") and a value. This module handles labels,
separators, what may precede a label, and what may follow a value; `scores` and `verdicts` define
the values. Every rule is a list of allowed or rejected words. A line that fits no rule is not a
statement, or an unreadable one: values are never guessed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from meta_reward_core.method.parsing.tokens import Token, make_word_set

Tokens = list[Token]

QUALIFIERS: Final = make_word_set(
    "最終 final total overall my the der die das le la el il our this that's judgment "
    "judgement judging judge's given assigned awarded suggested proposed resulting new "
    "revised adjusted corrected updated additive aggregate combined cumulative numeric "
    "numerical response response's answer evaluation assessment rubric grading and "
    "here's its finale totale final gesamt endgültige abschließende meine mi ma mon "
    "total definitiva globale mia totale итоговая 最终 最後 最终的 总 総合 综合 최종"
)
"""Words around a label with which it still refers to the whole.

Any other word ("relevance score") makes it a label of something else.
"""

CONCLUDING: Final = make_word_set(
    "short so thus therefore hence conclusion summary final finally overall line "
    "verdict result total sum altogether accordingly decision here fazit conclusión "
    "donc also ergo 结论 最终"
)
"""Words before a label that announce it."""

_REPORTING: Final = make_word_set(
    "wants wanted expects expected demanded tells told begs gave previous earlier other "
    "others another human humans people say says said saying claim claims claimed write "
    "writes wrote written quote quotes quoted example e.g eg like as such if would not "
    "never instead ask asks asked request requests requested require requires format "
    "form template prompt instruction instructions demand demands contain contains "
    "include includes mention mentions print prints output outputs"
)
"""Words before a label that attribute it to another author or make it hypothetical."""

_STATES: Final = make_word_set(
    "is are was has gets earns receives deserves answers lacks misses names"
)
"""Verbs that indicate a sentence before a label without a full stop."""

_NO_SENTENCE_END: Final = make_word_set(": ( | for of with to by as in that a the")

_SENTENCE_END: Final = frozenset(".!?;")
_FULL_STOP: Final = frozenset(".!?")
_CLOSING_MARKS: Final = frozenset('.!;")|>')
_REASON_FOLLOWS: Final = frozenset({",", "-", ":", "(", ";", "|"})
_TOO: Final = make_word_set("high low generous harsh lenient strict much")
_IGNORED: Final = frozenset({'"', ")", ">"})

CONNECTORS: Final = make_word_set(
    "because since as for due based given with overall i it this the by in although "
    "though even while whereas instead not weil da denn porque car parce 因为 理由"
)
"""Words that may directly follow a value and begin its reason."""

_TAKES_BACK: Final = make_word_set(
    "draft preliminary initial or and to if unless otherwise maybe perhaps possibly "
    "probably approximately approx roughly about around depending minus plus less more "
    "higher lower better worse actually rather wait no hmm correction corrected revised "
    "revise changed change reduced raised increased lowered downgraded upgraded "
    "adjusted then now ish provisional provisionally tentative tentatively at up down "
    "almost nearly else oder bis vielleicht ou o peut quizás either unsure uncertain 或 "
    "但"
)
"""Words that must not follow a value, because they limit or retract it."""

_CHANGES: Final = make_word_set(
    "reduced raised increased lowered downgraded upgraded adjusted down up changed revised"
)
"""Those of them that "from" makes harmless: "4 (lowered from 5)"."""

_RECONSIDERS_FIRST: Final = make_word_set(
    "wait hmm hm correction correcting actually rather oops sorry scratch edit update "
    "no reconsidering"
)
_RECONSIDERS: Final = make_word_set(
    "reconsider reconsidering reconsidered reflection reevaluate reevaluating mistaken "
    "misread miscounted"
)
_CHANGES_TO: Final = make_word_set(
    "right fair fairer appropriate should make change changed lower lowered raise "
    "raised revise revised reduce reduced increase increased adjust adjusted correct "
    "corrected become becomes instead rather better best wins winner too also equally"
)


@dataclass(frozen=True)
class LabelWords:
    """Words that label a score or a verdict.

    Attributes:
        strong: words that refer to nothing else.
        weak: words that may refer to something else as well ("result", "total"); they are not a
            label if the value after them is unreadable.
        after: further words that may follow a label word ("winning judgement").
        units: labels that are units where they follow a number ("4 points").
    """

    strong: frozenset[str]
    weak: frozenset[str]
    after: frozenset[str] = frozenset()
    units: frozenset[str] = frozenset()

    @cached_property
    def heads(self) -> frozenset[str]:
        """Words of which a label contains at least one."""
        return self.strong | self.weak

    @cached_property
    def beside(self) -> frozenset[str]:
        """Words that can follow a head within the label."""
        return self.heads | self.after | QUALIFIERS


@dataclass(frozen=True, slots=True)
class Label:
    """A label in a line that can introduce a value.

    Attributes:
        start: index of its first token.
        note: tokens between label and separator, as in "Score (out of 5):".
        end: index of the first token after its separator.
        is_firm: whether an unreadable value makes the line unreadable; otherwise such a line is not
            a statement.
        is_weak: whether its words may refer to something else as well.
        is_strict: whether nothing may follow the value, because a quotation mark opens right before
            the label.
        stands_alone: whether nothing precedes it on the line.
    """

    start: int
    note: Tokens
    end: int
    is_firm: bool
    is_weak: bool
    is_strict: bool
    stands_alone: bool


def find_labels(tokens: Tokens, known: LabelWords) -> list[Label]:
    """Find the labels of a line, from left to right, that introduce the overall value."""
    found: list[Label] = []
    place = 0
    while (head := _find_next_head(tokens, place, known)) is not None:
        start, end = _extend(tokens, place, head, known)
        is_nested = bool(found) and found[-1].end == start
        label = _make_label(tokens, start, end, known, is_nested=is_nested)
        if label is not None:
            found.append(_nest_label(found[-1], label) if is_nested else label)
        place = max(end, label.end if label else end)
    return found


def _nest_label(outer: Label, inner: Label) -> Label:
    """Give a label that is the value of another label the same strength."""
    return replace(
        inner,
        is_firm=outer.is_firm or inner.is_firm,
        is_weak=outer.is_weak and inner.is_weak,
        stands_alone=outer.stands_alone,
    )


def _find_next_head(tokens: Tokens, place: int, known: LabelWords) -> int | None:
    """Find the index of the next label word; "4 points" is an amount."""
    for index in range(place, len(tokens)):
        text = tokens[index].text
        if tokens[index].kind != "word" or text not in known.heads:
            continue
        if text in known.units and index > 0 and tokens[index - 1].kind in ("number", "stars"):
            continue
        return index
    return None


def _extend(tokens: Tokens, minimum: int, head: int, known: LabelWords) -> tuple[int, int]:
    """Extend a label by the qualifiers on both sides of its head."""
    start, end = head, head + 1
    while start > minimum and tokens[start - 1].text in QUALIFIERS:
        start -= 1
    while end < len(tokens) and tokens[end].text in known.beside and tokens[end].kind == "word":
        end += 1
    return start, end


_LOOK_BACK: Final = 60
_LOOK_AHEAD: Final = 16
_OPENS_NOTE: Final = frozenset({"out", "on", "from", "of", "for", "in", "max", "/"})
_SAYS_THAT: Final = frozenset({"is", "equals", "ist", "es", "est", "è", "é", "为", "是", "は"})
_FEW_WORDS: Final = 3


def _make_label(
    tokens: Tokens, start: int, end: int, known: LabelWords, *, is_nested: bool
) -> Label | None:
    """Build the label of `tokens[start:end]`; None if it does not introduce the overall value.

    A label that is the value of another label is nested: "Final score: <score>4</score>".
    """
    lead = tokens[max(0, start - _LOOK_BACK) : start]
    is_key = _is_key(tokens, start, end)
    is_quoted = bool(lead) and lead[-1].text == '"' and not is_key
    stands_alone = not any(token.kind == "word" for token in lead)
    is_whole = stands_alone or is_nested or is_key
    if not is_whole and not _may_follow(lead, tokens[start], is_quoted=is_quoted):
        return None
    note, place = _read_note(tokens, end)
    is_weak = not any(token.text in known.strong for token in tokens[start:end])
    separator = _read_separator(tokens, place, may_lack=stands_alone and not is_weak)
    if separator is None:
        return None
    place, is_firm = separator
    return Label(start, note, place, is_firm and not is_weak, is_weak, is_quoted, stands_alone)


def _is_key(tokens: Tokens, start: int, end: int) -> bool:
    """Whether a label is a JSON key: `{"reason": "...", "score": 4}`."""
    around = [token.text for token in tokens[max(0, start - 2) : start] + tokens[end : end + 2]]
    if start == 1:
        return around == ['"', '"', ":"]
    return tokens[0].text == "(" and around in ([",", '"', '"', ":"], ["(", '"', '"', ":"])


def _may_follow(lead: Tokens, head: Token, *, is_quoted: bool) -> bool:
    """Whether a label after other words on its line introduces the overall value.

    Labels that the text attributes to another author are refused, and so are labels of a part:
    "Relevance: Score: 1", "relevance score: 1".
    """
    clause = get_last_sentence(lead)
    said = [token.text for token in clause if token.kind == "word"]
    if not said:
        return True
    if is_reported(clause):
        return False
    if any(word in CONCLUDING for word in said) or clause[-1].kind == "number":
        return True
    if clause[-1].text == ",":
        return any(token.text == ":" for token in clause)
    is_new_sentence = head.is_capital and len(said) >= _FEW_WORDS and not _STATES.isdisjoint(said)
    return is_new_sentence and not is_quoted and clause[-1].text not in _NO_SENTENCE_END


def is_reported(clause: Tokens) -> bool:
    """Whether words report what another author wrote, or state a hypothesis."""
    return any(token.text in _REPORTING for token in clause)


def get_last_sentence(tokens: Tokens) -> Tokens:
    """Return the tokens after the last end of a sentence."""
    return tokens[find_sentence_start(tokens, len(tokens)) :]


def find_sentence_start(tokens: Tokens, place: int) -> int:
    """Find the index of the first token of the sentence that contains the token before `place`."""
    while place > 0 and tokens[place - 1].text not in _SENTENCE_END:
        place -= 1
    return place


def strip_full_stop(tokens: Tokens) -> Tokens:
    """Remove the punctuation that ends the last sentence."""
    end = len(tokens)
    while end and tokens[end - 1].text in _FULL_STOP:
        end -= 1
    return tokens[:end]


def _read_note(tokens: Tokens, place: int) -> tuple[Tokens, int]:
    """Read the note between a label and its separator; return where to look for the separator."""
    opens = tokens[place].text if place < len(tokens) else ""
    if opens != "(" and opens not in _OPENS_NOTE:
        return [], place
    closes = (")",) if opens == "(" else (":", "is")
    for end in range(place + 1, min(place + _LOOK_AHEAD, len(tokens))):
        if tokens[end].text in closes:
            if opens != "(":
                return tokens[place:end], end
            is_label = _read_separator(tokens, end + 1, may_lack=False) is not None
            return (tokens[place + 1 : end], end + 1) if is_label else ([], place)
    return [], place


def _read_separator(tokens: Tokens, place: int, *, may_lack: bool) -> tuple[int, bool] | None:
    """Return where the value starts, and whether the separator allows only a value.

    With `may_lack` a number may follow at once ("Score 4"), or the value may be on the next line.
    """
    place = skip(tokens, place, '"', ")")
    if place == len(tokens):
        return (place, False) if may_lack else None
    token = tokens[place]
    after = tokens[place + 1] if place + 1 < len(tokens) else None
    if token.text in (":", "="):
        return place + 1, True
    if token.text in _SAYS_THAT:
        says_colon = after is not None and after.text == ":"
        return place + 1 + says_colon, says_colon
    if token.text in ("|", "->") or (token.text == "-" and not _is_sign(token, after)):
        return place + 1, False
    is_value = token.kind in ("number", "stars") or token.text == "[["
    is_numbered = after is not None and after.text in (":", "=")
    return (place, False) if may_lack and is_value and not is_numbered else None


def _is_sign(dash: Token, after: Token | None) -> bool:
    """Whether a dash is directly before a number: "-1", not "- 1"."""
    return after is not None and after.kind == "number" and after.start == dash.end


def strip_bullet(tokens: Tokens) -> Tokens:
    """Remove the bullet of a list item."""
    is_bullet = len(tokens) > 1 and tokens[0].text == "-" and not _is_sign(tokens[0], tokens[1])
    return tokens[is_bullet:]


def skip(tokens: Tokens, place: int, *texts: str) -> int:
    """Return the index of the first token from `place` on that is not in `texts`."""
    while place < len(tokens) and tokens[place].text in texts:
        place += 1
    return place


IsRival = Callable[[Tokens, int], bool]
"""Checks whether the token at an index is a value other than the one read."""


@dataclass(frozen=True, slots=True)
class TailRules:
    """What can follow a value.

    Attributes:
        is_rival: whether a token is a value other than the one read.
        excuses: words after which another value in the same sentence is only a comparison.
        connectors: words that may directly follow the value.
    """

    is_rival: IsRival
    excuses: frozenset[str]
    connectors: frozenset[str] = CONNECTORS


def is_upheld(tail: Tokens, rules: TailRules) -> bool:
    """Whether a value still holds after the rest of its line."""
    place = skip(tail, 0, *_IGNORED)
    if place == len(tail) or _is_next_key(tail):
        return True
    end = next((n for n in range(place, len(tail)) if tail[n].text in _FULL_STOP), len(tail))
    reason = tail[place:end]
    return (
        (not reason or _may_begin_reason(reason, rules.connectors))
        and not _has_rival(reason, rules)
        and not is_reconsidered(tail[end:], rules)
    )


def _is_next_key(tail: Tokens) -> bool:
    """Whether a JSON value has ended and the next key follows."""
    texts = [token.text for token in tail[skip(tail, 0, '"') :][:8]]
    if texts[:2] != [",", '"'] or '"' not in texts[2:]:
        return False
    closes = texts.index('"', 2)
    return texts[closes + 1 : closes + 2] == [":"]


def is_end(tail: Tokens, allowed: frozenset[str] = frozenset()) -> bool:
    """Whether only punctuation and words of `allowed` follow a value."""
    return all(
        token.text in _CLOSING_MARKS or (token.kind == "word" and token.text in allowed)
        for token in tail
    )


def _may_begin_reason(reason: Tokens, connectors: frozenset[str]) -> bool:
    """Whether the words after a value give a reason for it and do not limit or change it."""
    first = reason[0]
    if first.kind == "word":
        is_sentence = first.is_capital and first.text not in _TAKES_BACK
        return first.text in connectors or is_sentence or _is_past(reason, 0)
    if first.text not in _REASON_FOLLOWS:
        return False
    place = skip(reason, 1, *_REASON_FOLLOWS, '"')
    if place == len(reason):
        return first.text != "-"
    if first.text != "(" and reason[place].kind != "word":
        return False
    text = reason[place].text
    return text not in _TAKES_BACK or text in connectors or _is_past(reason, place)


def _is_past(reason: Tokens, place: int) -> bool:
    """Whether another value is mentioned as an earlier one: "lowered from 5", "rather than 5"."""
    after = reason[place + 1].text if place + 1 < len(reason) else ""
    text = reason[place].text
    return (text in _CHANGES and after == "from") or (text == "rather" and after == "than")


def _has_rival(sentence: Tokens, rules: TailRules) -> bool:
    for place, token in enumerate(sentence):
        if token.text in rules.excuses:
            return False
        if rules.is_rival(sentence, place):
            return True
    return False


def is_reconsidered(tokens: Tokens, rules: TailRules) -> bool:
    """Whether one of the sentences of `tokens` retracts an earlier value."""
    if all(token.kind != "word" for token in tokens):
        return _has_rival(tokens, rules)
    start = 0
    for place in range(len(tokens) + 1):
        if place == len(tokens) or tokens[place].text in _SENTENCE_END:
            if _is_retraction(tokens[start:place], rules):
                return True
            start = place + 1
    return False


def _is_retraction(sentence: Tokens, rules: TailRules) -> bool:
    said = [token.text for token in sentence if token.kind == "word"]
    has_rival = _has_rival(sentence, rules)
    if not said:
        return False
    if said[0] == "no":
        return has_rival or any(token.text == "," for token in sentence[1:2])
    if said[0] in _RECONSIDERS_FIRST or _is_second_thought(said):
        return True
    return has_rival and (said[0] in _TAKES_BACK | {"but"} or not _CHANGES_TO.isdisjoint(said))


def _is_second_thought(said: list[str]) -> bool:
    """Whether words express doubt: "on second thought", "that is too high"."""
    doubts = {"thought", "thoughts", "reflection"} if said[0] == "on" else set()
    is_too = "too" in said and not _TOO.isdisjoint(said)
    is_real = {"would", "not"}.isdisjoint(said)
    return not (_RECONSIDERS | doubts).isdisjoint(said) or (is_too and is_real)
