"""Templates are filled in one pass, and say what is wrong with them."""

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.errors import TemplateError
from meta_reward_core.recipes.prompt_templates import (
    PromptTemplate,
    list_package_templates,
    load_template,
)

JUDGE_PLACES = frozenset({"rubric", "instruction", "response"})
META_JUDGE_PLACES = JUDGE_PLACES | {"judgment_a", "judgment_b"}


@given(st.text(), st.text())
def test_what_is_filled_in_is_never_read_again(instruction: str, response: str) -> None:
    template = PromptTemplate("t.txt", "I {instruction} R {response} I {instruction}")
    filled = template.fill(instruction=instruction, response=response)
    assert filled == f"I {instruction} R {response} I {instruction}"


@pytest.mark.parametrize(
    "hostile",
    [
        "{instruction}",
        "{response}",
        "{{instruction}}",
        "{unknown}",
        "%s %(instruction)s",
        "$x ${instruction}",
        "{{ 7 * 7 }}{% raw %}",
        "\\1 \\g<0>",
        "{0.__class__}",
    ],
)
def test_template_code_in_a_response_stays_text(hostile: str) -> None:
    template = PromptTemplate("t.txt", "{instruction}|{response}")
    assert template.fill(instruction="hello", response=hostile) == f"hello|{hostile}"


def test_a_missing_value_is_an_error_that_names_it() -> None:
    with pytest.raises(TemplateError, match=r"t\.txt: no value was given for \{response\}"):
        PromptTemplate("t.txt", "{instruction} {response}").fill(instruction="x")


def test_values_without_a_place_are_left_out() -> None:
    assert PromptTemplate("t.txt", "{response}").fill(response="r", rubric="long") == "r"


def test_an_unknown_placeholder_is_named_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Grade {answer}.")
    with pytest.raises(
        TemplateError, match=r"mine\.txt: \{answer\} is not a known placeholder; use .*\{response\}"
    ):
        load_template(file)


def test_a_required_placeholder_that_is_missing_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Grade {response}.")
    with pytest.raises(TemplateError, match=r"mine\.txt: \{instruction\} is missing; write it"):
        load_template(file, required=frozenset({"response", "instruction"}))


@pytest.mark.parametrize("text", ["{{response}}", "Grade {{ response }}"])
def test_doubled_braces_are_an_error(text: str) -> None:
    with pytest.raises(TemplateError, match="doubled braces"):
        PromptTemplate("t.txt", text)


def test_braces_that_are_no_places_stay(tmp_path: Path) -> None:
    template = PromptTemplate("t.txt", 'Reply {"score": 4} {} { } {1} to {response}')
    assert template.fill(response="r") == 'Reply {"score": 4} {} { } {1} to r'


def test_header_lines_are_metadata_and_not_part_of_the_prompt(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(
        b"\xef\xbb\xbf#: source: me\r\n#:purpose: {anything}\r\n\r\nGrade {response}\r\n#: in\r\n"
    )
    template = load_template(str(file))
    assert template.metadata == ("source: me", "purpose: {anything}")
    assert template.text == "Grade {response}\n#: in"


def test_the_hash_is_of_the_prompt_and_not_of_its_header(tmp_path: Path) -> None:
    plain, commented = tmp_path / "a.txt", tmp_path / "b.txt"
    plain.write_text("Grade {response}\n")
    commented.write_text("#: source: me\nGrade {response}\n")
    assert load_template(plain).sha256 == load_template(commented).sha256
    assert load_template(plain).sha256 == hashlib.sha256(b"Grade {response}").hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"#: source: me\n", "empty"),
        (b"\xff\xfe{response}", "cannot be read as UTF-8"),
    ],
)
def test_a_file_that_is_no_template_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(content)
    with pytest.raises(TemplateError, match=message):
        load_template(file)


@pytest.mark.parametrize("name", ["no_such", "no/such.txt", "../judge.txt"])
def test_a_template_that_is_not_there_is_an_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(TemplateError, match=r"one of: brief_judge, brief_meta_judge"):
        load_template(name)


def test_a_folder_is_no_template(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="cannot be read"):
        load_template(tmp_path)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("judge", JUDGE_PLACES),
        ("meta_judge", META_JUDGE_PLACES),
        ("neutral_meta_judge", META_JUDGE_PLACES),
        ("rubric", frozenset()),
        ("neutral_rubric", frozenset()),
        ("brief_judge", JUDGE_PLACES),
        ("brief_meta_judge", META_JUDGE_PLACES),
        ("brief_rubric", frozenset()),
    ],
)
def test_the_package_templates_have_exactly_their_places(name: str, places: frozenset[str]) -> None:
    template = load_template(name, required=places)
    assert template.placeholders == places
    assert any(line.startswith("source:") for line in template.metadata)
    assert name in list_package_templates()


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("judge", ["rubric", "instruction", "response"]),
        ("meta_judge", ["rubric", "instruction", "response", "judgment_a", "judgment_b"]),
        ("neutral_meta_judge", ["rubric", "instruction", "response", "judgment_a", "judgment_b"]),
    ],
)
def test_what_varies_most_comes_last_so_that_prefixes_are_shared(
    name: str, order: list[str]
) -> None:
    text = load_template(name).text
    positions = [text.index(f"{{{place}}}") for place in order]
    assert positions == sorted(positions)
    assert all(text.count(f"{{{place}}}") == 1 for place in order)


def test_the_reply_formats_are_those_that_the_parsers_read() -> None:
    assert "Score: <points>" in load_template("judge").text
    for name in ("meta_judge", "neutral_meta_judge"):
        assert "\nWinner: Judgement A\nWinner: Judgement B\n" in load_template(name).text


def test_the_shipped_prompts_have_the_bytes_that_published_results_were_made_with() -> None:
    """Their hashes are part of every result: a new wording is a new file."""
    known = {
        "judge": "2367438f9ccc7235",
        "meta_judge": "903b83ec850ceb8c",
        "rubric": "7aba7577deb0923e",
    }
    assert {name: load_template(name).sha256[:16] for name in known} == known


WARNINGS = {
    "meta_judge": " Neither the number of points, nor the length of a judgment, nor the order in "
    "which the two are shown, is a reason to prefer it.",
    "rubric": "Length is no merit in itself: text that adds nothing earns nothing. ",
}


@pytest.mark.parametrize("name", WARNINGS)
def test_the_neutral_prompts_differ_from_the_others_in_the_warnings_alone(name: str) -> None:
    warning, text = WARNINGS[name], load_template(name).text
    assert text.count(warning) == 1
    assert load_template(f"neutral_{name}").text == text.replace(warning, "")


@pytest.mark.parametrize("name", ["judge", "neutral_meta_judge", "neutral_rubric"])
def test_no_prompt_of_the_neutral_set_warns_of_a_bias(name: str) -> None:
    words = set(re.findall(r"[a-z]+", load_template(name).text.lower()))
    assert not words & {"length", "long", "longer", "short", "shorter", "bias", "biases", "biased"}
    assert "the order in which" not in load_template(name).text
    assert "number of points" not in load_template(name).text
