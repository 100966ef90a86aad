"""Files of prompts that people really have, and the ones that say what is wrong with them."""

import csv
import hashlib
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.data.prompt_files import REJECT_TEXT, compute_prompt_id, read_prompts
from meta_reward_core.errors import PromptFileError

ODD_TEXTS = [
    "Plain?",
    "  leading and trailing  ",
    "Emoji \U0001f469\u200d\U0001f680 and flags \U0001f1e9\U0001f1ea",
    "\u0645\u0631\u062d\u0628\u0627 \u202e right to left",
    "e\u0301 is not \u00e9",
    "a\u2028line separator\x85and\x0bothers",
    "tab\tand 'quotes' and \"doubles\", commas; {braces}",
    "\ufeffa byte order mark inside",
]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def write_csv(file: Path, texts: list[str]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerows([["prompt"], *([text] for text in texts)])
    return file


def write_parquet(file: Path, columns: dict[str, list[object]]) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


def write_any(folder: Path, suffix: str, texts: list[str]) -> Path:
    file = folder / f"prompts.{suffix}"
    if suffix == "csv":
        return write_csv(file, texts)
    if suffix == "parquet":
        return write_parquet(file, {"prompt": list(texts)})
    lines = texts if suffix == "txt" else [json.dumps({"prompt": text}) for text in texts]
    return write(folder, file.name, "\n".join(lines))


SUFFIXES = ["txt", "jsonl", "csv", "parquet"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_odd_unicode_comes_back_exactly(tmp_path: Path, suffix: str) -> None:
    found = read_prompts(write_any(tmp_path, suffix, ODD_TEXTS))
    assert [prompt.text for prompt in found.prompts] == ODD_TEXTS
    assert (found.duplicates, found.rejected) == (0, [])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_line_of_a_megabyte_is_a_prompt_like_any_other(tmp_path: Path, suffix: str) -> None:
    long = "\u00e4 long prompt " * 80_000
    found = read_prompts(write_any(tmp_path, suffix, [long, "short"]))
    assert [prompt.text for prompt in found.prompts] == [long, "short"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_duplicates_are_dropped_and_counted(tmp_path: Path, suffix: str) -> None:
    found = read_prompts(write_any(tmp_path, suffix, ["a", "b", "a", "a ", "A"]))
    assert [prompt.text for prompt in found.prompts] == ["a", "b", "a ", "A"]
    assert found.duplicates == 1


@pytest.mark.parametrize(("suffix", "line"), [("jsonl", 2), ("csv", 3), ("parquet", 2)])
@pytest.mark.parametrize(("text", "reason"), [("nul\x00l", "null_byte"), ("   ", "empty")])
def test_a_row_that_cannot_serve_is_left_out_and_told(
    tmp_path: Path, suffix: str, line: int, text: str, reason: str
) -> None:
    """In a CSV file the header is line 1."""
    found = read_prompts(write_any(tmp_path, suffix, ["good", text, "also good"]))
    assert [prompt.text for prompt in found.prompts] == ["good", "also good"]
    assert found.rejected == [(line, reason)]


def test_half_a_surrogate_pair_is_no_character(tmp_path: Path) -> None:
    file = write(tmp_path, "p.jsonl", '{"prompt": "a \\ud83d b"}\n{"prompt": "a \\ud83d\\ude00"}\n')
    found = read_prompts(file)
    assert found.rejected == [(1, "lone_surrogate")]
    assert [prompt.text for prompt in found.prompts] == ["a \U0001f600"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_text_lines_end_as_any_system_ends_them(tmp_path: Path, newline: str) -> None:
    file = write(tmp_path, "p.txt", newline.join(["one", "", "  ", "two"]) + newline)
    assert [prompt.text for prompt in read_prompts(file).prompts] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("p.txt", "one"), ("p.jsonl", '{"prompt": "one"}'), ("p.csv", "prompt\none\n")],
)
def test_a_byte_order_mark_is_not_part_of_the_first_prompt(
    tmp_path: Path, name: str, content: str
) -> None:
    found = read_prompts(write(tmp_path, name, b"\xef\xbb\xbf" + content.encode()))
    assert [prompt.text for prompt in found.prompts] == ["one"]


@pytest.mark.parametrize("column", ["prompt", "instruction", "text", "prompt_text"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_the_usual_column_names_are_known(tmp_path: Path, suffix: str, column: str) -> None:
    content = {
        "jsonl": json.dumps({column: "one", "n": 1}),
        "csv": f"n,{column}\n1,one\n",
    }
    file = tmp_path / f"p.{suffix}"
    if suffix == "parquet":
        write_parquet(file, {"n": [1], column: ["one"]})
    else:
        write(tmp_path, file.name, content[suffix])
    assert [prompt.text for prompt in read_prompts(file).prompts] == ["one"]


def test_of_several_columns_the_first_known_one_counts(tmp_path: Path) -> None:
    file = write(tmp_path, "p.jsonl", '{"text": "no", "prompt": "yes", "dataset": "d"}')
    found = read_prompts(file)
    assert [prompt.text for prompt in found.prompts] == ["yes"]
    assert found.extra == {compute_prompt_id("yes"): {"text": "no", "dataset": "d"}}


def test_a_null_column_gives_way_to_one_that_holds_something(tmp_path: Path) -> None:
    file = write_parquet(
        tmp_path / "p.parquet", {"prompt": [None, "a", None], "text": ["b", "x", None]}
    )
    found = read_prompts(file)
    assert [prompt.text for prompt in found.prompts] == ["b", "a"]
    assert found.rejected == [(3, "not_a_text")]


def test_messages_that_a_csv_file_holds_as_text_are_not_taken_for_a_prompt(tmp_path: Path) -> None:
    file = write(tmp_path, "p.csv", 'messages,prompt\n"[{""role"": ""user""}]",yes\n')
    assert [prompt.text for prompt in read_prompts(file).prompts] == ["yes"]
    file = write(tmp_path, "q.csv", 'messages\n"[{""role"": ""user""}]"\n')
    with pytest.raises(PromptFileError, match="The messages hold no text by the user"):
        read_prompts(file)


def test_an_alpaca_row_keeps_what_its_instruction_is_about(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Sum up.", "input": "A text."},
        {"instruction": "Sing.", "input": ""},
    ]
    file = write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert [p.text for p in read_prompts(file).prompts] == ["Sum up.\n\nA text.", "Sing."]


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "First?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Second?"},
]


@pytest.mark.parametrize("column", ["messages", "prompt"])
def test_of_a_conversation_the_first_user_turn_is_the_prompt(tmp_path: Path, column: str) -> None:
    as_json = write(tmp_path, "p.jsonl", json.dumps({column: MESSAGES}))
    as_parquet = write_parquet(tmp_path / "p.parquet", {column: [MESSAGES]})
    for file in (as_json, as_parquet):
        assert [prompt.text for prompt in read_prompts(file).prompts] == ["First?"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "no_user_turn"),
        ([{"role": "assistant", "content": "x"}], "no_user_turn"),
        ([{"role": "user", "content": None}], "no_user_turn"),
        (["not a message"], "no_user_turn"),
        (None, "not_a_text"),
        (7, "not_a_text"),
        ({"a": 1}, "not_a_text"),
        ("", "empty"),
    ],
)
def test_a_value_that_is_no_prompt_is_rejected_with_its_reason(
    tmp_path: Path, value: object, reason: str
) -> None:
    rows = [{"prompt": value}, {"prompt": "good"}]
    found = read_prompts(write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows))))
    assert found.rejected == [(1, reason)]
    assert reason in REJECT_TEXT


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": ', r"p\.jsonl, line 2: is not valid JSON"),
        ("p.jsonl", '{"prompt": "a"}\n\n["a"]', r"p\.jsonl, line 3: is a JSON list, not an object"),
        ("p.jsonl", '{"question": "a"}', r"p\.jsonl, line 1: has no prompt \(found: question\)"),
        ("p.jsonl", "[" * 100_000, r"p\.jsonl, line 1: is nested deeper than 64"),
        ("p.jsonl", '{"prompt": ' + "9" * 5_000 + "}", "The prompt is neither a text"),
        ("p.jsonl", '{"prompt": "a", "id": "\\ud800"}', "the column 'id' holds half of a surr"),
        ("p.jsonl", '{"prompt": "a", "\\u0000": 1}', "holds the character NUL"),
        ("p.jsonl", '{"prompt": "a", "n": [1e999]}', "the column 'n' holds a number that is inf"),
        ("p.csv", "question\na\n", r"p\.csv, line 1: has no prompt \(found: question\)"),
        ("p.csv", "prompt\na, b\n", r"p\.csv, line 2: has not as many cells as the header"),
        ("p.csv", "n,prompt\n1\n", r"p\.csv, line 2: has not as many cells as the header"),
        ("p.csv", 'prompt\n"a" b\n', r"p\.csv, line 2: is not valid CSV"),
        ("p.csv", 'prompt\n"never closed\n', r"p\.csv, line 2: is not valid CSV"),
        ("p.txt", b"fine\nfine\n\xff\xfe\n", r"p\.txt, line 3: is not UTF-8"),
        ("p.csv", b"prompt\n\xe9\n", r"p\.csv, line 2: is not UTF-8"),
        ("p.jsonl", '{"prompt": "a"}'.encode("utf-16"), r"p\.jsonl, line 1: is not UTF-8"),
        ("p.parquet", b"PAR1 no", r"p\.parquet: is not a readable Parquet file"),
        ("p.parquet", b"", r"p\.parquet: is not a readable Parquet file"),
        ("p.xlsx", b"", r"p\.xlsx: the suffix \.xlsx is unknown; use one of \.txt, \.jsonl"),
        ("prompts", b"", r"the suffix \(none\) is unknown"),
        ("p.txt", b"", r"p\.txt: holds no prompt; add"),
        ("p.txt", b"\n \n", r"p\.txt: holds no prompt; add"),
        ("p.jsonl", b"", r"p\.jsonl: holds no prompt; add"),
        ("p.csv", b"", r"p\.csv: holds no prompt; add"),
        ("p.csv", b"prompt\n", r"p\.csv: holds no prompt; add"),
        ("p.jsonl", '{"prompt": ""}', r"holds no prompt \(all 1 rows .*row 1: The prompt is empty"),
    ],
)
def test_a_file_that_is_not_what_it_promises_says_where_and_what_to_do(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(PromptFileError, match=message):
        read_prompts(write(tmp_path, name, content))


def test_a_parquet_file_without_a_prompt_column_names_its_columns(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "p.parquet", {"a": [1], "b": [2]})
    with pytest.raises(PromptFileError, match=r"has no prompt \(found: a, b\)"):
        read_prompts(file)


@pytest.mark.parametrize("name", ["absent.txt", "absent.parquet"])
def test_a_file_that_is_not_there_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(PromptFileError, match="cannot be read"):
        read_prompts(tmp_path / name)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "p.txt"
    folder.mkdir()
    with pytest.raises(PromptFileError, match="cannot be read"):
        read_prompts(folder)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_prompt_is_known_by_the_hash_of_its_text(text: str) -> None:
    assert compute_prompt_id(text) == hashlib.sha256(text.encode("utf-8")).hexdigest()


_TEXTS = st.lists(st.text(min_size=1).filter(lambda text: text.strip() and "\x00" not in text))


@given(_TEXTS.filter(bool), st.sampled_from(["jsonl", "csv", "parquet"]))
def test_every_text_comes_back_once_in_order(texts: list[str], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = read_prompts(write_any(Path(folder), suffix, texts))
    assert [prompt.text for prompt in found.prompts] == list(dict.fromkeys(texts))
    assert found.duplicates == len(texts) - len(set(texts))
