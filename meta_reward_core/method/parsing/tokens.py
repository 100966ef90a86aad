"""Split a completion into lines, and a line into tokens: words, numbers and punctuation.

Markdown, LaTeX commands, control tokens, closing tags and emojis leave no token, so that they
cannot change a reading. Brackets of every kind are parentheses. Each pattern matches a bounded
length, and tokens do not overlap, so the time is linear in the text.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["word", "number", "stars", "chain", "mark"]


@dataclass(frozen=True, slots=True)
class Token:
    """A word, a number or a punctuation mark of a line.

    Attributes:
        kind: `chain` is a comparison such as `A>>B`; `stars` a row of stars.
        text: casefolded word; a mark in its plain form, where brackets are `(` and `)`, every
            quotation mark and the backtick `"`, every dash `-`, and `[[` or a box of LaTeX `[[`.
        start: offset of its first character in the line.
        end: offset of the first character after it.
        value: value of a number or of stars; None for a number that is not in plain form, such as
            `1e9`.
        is_capital: whether a word begins with a capital letter.
    """

    kind: Kind
    text: str
    start: int
    end: int
    value: float | None = None
    is_capital: bool = False


def make_word_set(text: str) -> frozenset[str]:
    """Return the words of a text as a vocabulary."""
    return frozenset(text.split())


_UNSPACED_WORDS: Final = (
    "最终", "最後", "最終", "最终的", "总", "総合", "综合", "评分", "評分", "得分", "分数", "總分",
    "总分",
    "打分", "評価", "点数", "スコア", "得点", "점수", "평점", "최종", "총점", "为", "是", "は",
    "分", "点", "점", "满分", "満点", "获胜者", "优胜者",
    "優勝者", "勝者", "胜者", "赢家", "胜出者", "승자",
    "判断", "评判", "评价", "评审", "回答", "答案", "助手", "判定", "평가", "更好", "平局", "平手",
    "引き分け", "무승부", "裁决", "结论", "因为", "理由", "但", "或", "和", "与",
    "零", "一", "二", "三", "四", "五",
)  # fmt: skip
"""Words of scripts without spaces; all other characters of these scripts are single tokens."""

_UNSPACED: Final = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_LETTER: Final = (
    r"A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u052f\u0590-\u06ff"
)
_DIGIT: Final = r"0-9\uff10-\uff19"

_STAR: Final = r"\u2b50\u2605\u2606\u2729\u2730\U0001f31f"

_TOKEN: Final = re.compile(
    rf"""
    (?P<nothing><\|[^<>|]{{1,40}}\|>|</?s>|<(?:eos|bos|end_of_turn|endoftext)>
        |</[A-Za-z][\w -]{{0,40}}>
        |<(?:b|i|u|p|em|strong|br|div|span|h[1-6]|li|code|pre|td|tr)\s?/?>
        |\\(?!boxed|fbox)[A-Za-z]{{1,20}})
    |<(?P<tag>[A-Za-z][\w -]{{0,40}})>
    |(?P<chain>(?<![{_LETTER}{_DIGIT}])[ABab]\s{{0,3}}(?:<{{1,9}}|>{{1,9}}|={{1,9}})\s{{0,3}}[ABab]
        (?![{_LETTER}{_DIGIT}]))
    |(?P<box>\[\[|\\boxed|\\fbox)
    |(?P<number>(?:[{_DIGIT}]+(?:[.,\uff0e][{_DIGIT}]+)*|\.[{_DIGIT}]+)[\u00bd\u00bc\u00be]?
        |[\u00bd\u00bc\u00be])(?:\ufe0f?\u20e3)?(?P<suffix>[{_LETTER}\u00b2\u00b3\u00b0^]*)
    |(?P<stars>[{_STAR}](?:\ufe0f?[{_STAR}])*)
    |(?P<glued>(?i:judge?ment|answer|response|assistant|option)(?=[AB](?![{_LETTER}])))
    |(?P<unspaced>{"|".join(sorted(_UNSPACED_WORDS, key=len, reverse=True))}|[{_UNSPACED}])
    |(?P<word>[{_LETTER}]+(?:['\u2019][{_LETTER}]+)?)
    |(?P<quote>["\u201c\u201d\u201e\u00ab\u00bb\u2018\u2019'\u300c\u300d\u300e\u300f`\u00b4])
    |(?P<angle><(?=[^<>\n]{{1,40}}>))
    |(?P<open>[(\[{{\uff08\uff3b\u3010])
    |(?P<close>[)\]}}\uff09\uff3d\u3011])
    |(?P<arrow>->|=>|[\u2192\u21d2\u279c])
    |(?P<dash>[-\u2010-\u2015\u2212])
    |(?P<mark>[:=/+,;.!?%~&|<>\u2248\u00b1\u2264\u2265\u2026\u00d7\uff1a\uff1d\uff0f\uff0b\uff0c]
        |[\u3001\uff1b\u3002\uff01\uff1f\uff05\uff5c])
    """,
    re.VERBOSE,
)

_PLAIN_FORM: Final = str.maketrans("\u3001\u3002\u2026\u2248", ",..~")
_FRACTIONS: Final = {"\u00bd": 0.5, "\u00bc": 0.25, "\u00be": 0.75}
_FILLED_STARS: Final = frozenset("\u2b50\u2605\U0001f31f")
_MAX_DIGITS: Final = 40
_GLUED_UNITS: Final = frozenset({"pt", "pts", "point", "points", "stars"})


def tokenize(line: str) -> list[Token]:
    """Return the tokens of a line, in order.

    A `<tag>` becomes its words and a `|`, like a table cell.
    """
    found: list[Token] = []
    for match in _TOKEN.finditer(line):
        _TAKE[match.lastgroup if match.lastgroup != "suffix" else "number"](found, match)
    return found


def _take_nothing(found: list[Token], match: re.Match[str]) -> None:
    """Skip text without meaning."""


def _take_tag(found: list[Token], match: re.Match[str]) -> None:
    offset = match.start("tag")
    inside = re.finditer(rf"[{_LETTER}]+", match["tag"])
    found.extend(_make_word(word[0], offset + word.start()) for word in inside)
    found.append(Token("mark", "|", match.end() - 1, match.end()))


def _take_number(found: list[Token], match: re.Match[str]) -> None:
    suffix = match["suffix"].casefold()
    is_plain = not suffix or suffix in _GLUED_UNITS
    value = _parse_number(match["number"]) if is_plain else None
    end = match.start("suffix")
    found.append(Token("number", match["number"], match.start(), end, value))
    if suffix in _GLUED_UNITS:
        found.append(_make_word(match["suffix"], end))


def _parse_number(text: str) -> float | None:
    """Parse `4`, `4.5`, `4,5`, `.5`, full-width digits and `4½`; None for anything else."""
    share = _FRACTIONS.get(text[-1])
    plain = unicodedata.normalize("NFKC", text if share is None else text[:-1])
    whole, _, decimals = plain.replace(",", ".", 1).partition(".")
    if "." in decimals or "," in decimals or ("," in plain and len(decimals) > 2):
        return None
    if len(plain) > _MAX_DIGITS:
        return float("inf") if len(whole) > _MAX_DIGITS else None
    return float(f"{whole or '0'}.{decimals or '0'}") + (share or 0.0)


def _take_stars(found: list[Token], match: re.Match[str]) -> None:
    count = sum(star in _FILLED_STARS for star in match[0])
    found.append(Token("stars", "*", match.start(), match.end(), float(count)))


def _take_chain(found: list[Token], match: re.Match[str]) -> None:
    text = "".join(match[0].split()).upper()
    found.append(Token("chain", text, match.start(), match.end()))


def _take_word(found: list[Token], match: re.Match[str]) -> None:
    found.append(_make_word(match[0], match.start()))


def _make_word(text: str, start: int) -> Token:
    plain = text.casefold().replace("\u2019", "'")
    return Token("word", plain, start, start + len(text), is_capital=text[0].isupper())


def _take_mark(found: list[Token], match: re.Match[str]) -> None:
    plain = unicodedata.normalize("NFKC", match[0].translate(_PLAIN_FORM))
    found.append(Token("mark", plain, match.start(), match.end()))


def _take_as(plain: str) -> "Take":
    def take(found: list[Token], match: re.Match[str]) -> None:
        found.append(Token("mark", plain, match.start(), match.end()))

    return take


Take = Callable[[list[Token], re.Match[str]], None]
"""Appends the tokens of one match."""

_TAKE: Final[Mapping[str | None, Take]] = {
    "nothing": _take_nothing, "tag": _take_tag, "chain": _take_chain, "box": _take_as("[["),
    "number": _take_number, "stars": _take_stars, "glued": _take_word, "unspaced": _take_word,
    "word": _take_word, "quote": _take_as('"'), "angle": _take_as("("), "open": _take_as("("),
    "close": _take_as(")"), "arrow": _take_as("->"), "dash": _take_as("-"),
    "mark": _take_mark,
}  # fmt: skip
