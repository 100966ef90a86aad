"""No cell of our CSV is a formula, by whatever character a spreadsheet splits the file."""

import ast
import csv
import io
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meta_reward_core.data.csv_safety import format_csv, guard_cell, is_plain_number, unguard_cell

ROOT = Path(__file__).parents[3]
SEPARATORS = ",;|\t\r\n\v\f\u2028"
HOSTILE = "=+-@|＝＋－＠｜﹢−'\";,\t\r\n \u00a0\u200b\ufeff\u2060\u00ad\x00ab1."
UNSEEN = {"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"}
"""Unicode's categories of controls, format characters, half surrogates and blanks."""

SIGNS = ("=", "+", "-", "@", "|", "\u2212")

texts = st.one_of(st.text(max_size=30), st.text(HOSTILE, max_size=30))


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet that drops what is not seen would compute a cell.

    Written anew from Unicode's own categories and compatibility forms, not from the guard's lists.
    """
    seen = cell
    while seen and (unicodedata.category(seen[0]) in UNSEEN or seen[0] == '"'):
        seen = seen[1:]
    first = unicodedata.normalize("NFKC", seen[:1])
    return first.startswith(SIGNS) and not is_plain_number(cell)


def split_at_separators(text: str) -> list[str]:
    for separator in SEPARATORS:
        text = text.replace(separator, "\n")
    return text.split("\n")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        (" =1+1", "' =1+1"),
        ("\t=1+1", "'\t'=1+1"),
        ("\n=1+1", "'\n'=1+1"),
        ("\r@SUM(1)", "'\r'@SUM(1)"),
        ("\ufeff=1", "'\ufeff=1"),
        ("\u200b\u00a0+1", "'\u200b\u00a0+1"),
        ("＝1", "'＝1"),
        ("－1", "'－1"),
        ("−1", "'−1"),
        ("|calc", "'|calc"),
        ("x;=1+1", "'x;'=1+1"),
        ("a\t=1+1", "'a\t'=1+1"),
        ("a\n - b", "'a\n' - b"),
        ("x, =1", "'x,' =1"),
        ('x;"=1"', "'x;'\"=1\""),
        ('"=1"', '\'"=1"'),
        ("\tx", "'\tx"),
        ("-5 degrees", "'-5 degrees"),
        ("-inf", "'-inf"),
        ("'tis", "''tis"),
        (["a", ";=1"], '\'["a", ";\'=1"]'),
    ],
)
def test_what_a_spreadsheet_would_compute_is_guarded(text: object, cell: str) -> None:
    assert guard_cell(text) == cell


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (-1.5, "-1.5"),
        ("-1.5", "-1.5"),
        ("+3", "+3"),
        ("-2e-05", "-2e-05"),
        ("-.5", "-.5"),
        (True, "True"),
        (None, ""),
        ([0.5, -1.5], "[0.5, -1.5]"),
        ("1=1; a - b, c + d", "1=1; a - b, c + d"),
        ("a\tb\nc", "a\tb\nc"),
    ],
)
def test_numbers_and_harmless_texts_stay_as_they_are(value: object, cell: str) -> None:
    assert guard_cell(value) == cell


def test_every_unseen_character_and_every_form_of_a_sign_is_known() -> None:
    characters = list(map(chr, range(sys.maxunicode + 1)))
    unseen = [c for c in characters if unicodedata.category(c) in UNSEEN]
    signs = [c for c in characters if unicodedata.normalize("NFKC", c).startswith(SIGNS)]
    begins = [f"{character}=1" for character in unseen] + [f"{sign}cmd" for sign in signs]
    assert [text for text in begins if not guard_cell(text).startswith("'")] == []
    behind = [guard_cell(f"x;{text}") for text in begins]
    assert [cell for cell in behind if any(map(is_formula, split_at_separators(cell)))] == []


@given(texts)
@example("x;\u200b'=1")
@example("|||")
def test_no_part_of_a_cell_begins_like_a_formula(text: str) -> None:
    cell = guard_cell(text)
    assert is_plain_number(cell) or not any(map(is_formula, split_at_separators(cell)))


@given(texts)
@example("'=1")
@example("''")
@example("x;''=1")
def test_a_guarded_text_comes_back(text: str) -> None:
    assert unguard_cell(guard_cell(text)) == text


@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=4), st.sampled_from(",;\t|"))
def test_a_file_that_is_split_by_another_character_has_no_formula(
    rows: list[tuple[str, str, str]], separator: str
) -> None:
    table = format_csv((f"id{row[0]}", *row[1:]) for row in rows)
    found = csv.reader(io.StringIO(table, newline=""), delimiter=separator)
    assert not [cell for row in found for cell in row if is_formula(cell)]


@given(st.lists(st.tuples(texts, texts), max_size=4))
def test_a_written_file_is_read_back(rows: list[tuple[str, str]]) -> None:
    read = csv.reader(io.StringIO(format_csv(rows), newline=""))
    assert [tuple(map(unguard_cell, row)) for row in read] == rows


@pytest.mark.parametrize("cell", ["'tis", "plain", "x;'=1", "'it; is'", "", "'"])
def test_a_cell_that_was_not_guarded_keeps_its_apostrophes(cell: str) -> None:
    assert unguard_cell(cell) == cell


def test_no_other_module_writes_csv() -> None:
    """A second writer would be a second guard, or none."""
    found = []
    for package in ("meta_reward_core", "webapp", "workers"):
        for file in sorted((ROOT / package).rglob("*.py")):
            source = file.read_text(encoding="utf-8")
            if "csv" in source and any(map(is_csv_writer, ast.walk(ast.parse(source)))):
                found.append(file.relative_to(ROOT).as_posix())
    assert found == ["meta_reward_core/data/csv_safety.py"]


def is_csv_writer(node: Any) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "name", "")
    return name in {"DictWriter", "to_csv", "write_csv"} or (
        name == "writer" and getattr(getattr(node, "value", None), "id", "") == "csv"
    )
