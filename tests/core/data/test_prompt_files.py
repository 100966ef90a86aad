"""Files of prompts that people really have, and the ones that say what is wrong with them."""

import csv
import gzip
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
from meta_reward_core.data.prompt_formats import FORMATS, detect_format
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
    with pytest.raises(PromptFileError, match="The messages contain no text from the user"):
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
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}],
            "no_user_turn",
        ),
        ({"role": "assistant", "text": "x", "replies": []}, "no_user_turn"),
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
        ("p.jsonl", '{"question": "a"}', r"contains no prompt \(.*line 1: The row has no prompt"),
        ("p.jsonl", "[" * 100_000, r"contains no prompt \(.*line 1: The line is not valid JSON"),
        ("p.json", "[" * 100_000, r"p\.json: is nested deeper than 64"),
        ("p.jsonl", '{"prompt": "a", "id": "\\ud800"}', "line 1: Another column contains a value"),
        ("p.jsonl", '{"prompt": "a", "\\u0000": 1}', "line 1: Another column contains a value"),
        ("p.jsonl", '{"prompt": "a", "n": [1e999]}', "line 1: Another column contains a value"),
        ("p.json", b'[\n"\xe9"]', r"row 1: The row is not UTF-8 text; save the file as UTF-8"),
        ("p.json", "nothing like it", r"p\.json: line 1: is not valid JSON"),
        (
            "p.json",
            '[{"prompt": "a"},\n {"prompt": "b',
            r"the JSON is incomplete: it ends at line 2",
        ),
        (
            "p.txt",
            '[{"prompt": "a"},\n {"prompt": "b"},',
            r"the JSON is incomplete: it ends at line 2",
        ),
        ("upload", '[\n  {\n    "prompt": "a"\n', r"the JSON is incomplete: it ends at line 3"),
        ("p.csv", "question\na\n", r"p\.csv, line 1: has no prompt column \(found: question\)"),
        ("p.csv", "question;n\na;1\n", r"line 1: has no prompt column \(found: question, n\)"),
        (
            "p.csv",
            'prompt\nfine\n"never closed\n',
            r"p\.csv, line 3: a quoted cell is never closed",
        ),
        ("p.csv", b"prompt\n\xe9\n", r"line 2: The row is not UTF-8 text; save the file as UTF-8"),
        ("p.jsonl", '{"prompt": "a"}'.encode("utf-16"), r"p\.jsonl, line 1: is not UTF-8"),
        ("p.jsonl", '{"prompt": "a"}'.encode("utf-16-be"), r"is neither text nor Parquet"),
        ("p.parquet", b"PAR1 no", r"p\.parquet: is not a readable Parquet file"),
        ("p.parquet", b"", r"p\.parquet: contains no prompt; add"),
        (
            "p.xlsx",
            b"PK\x03\x04 and so on",
            r"p\.xlsx: is a zip archive or a spreadsheet; unpack it",
        ),
        (
            "p.jsonl.gz",
            gzip.compress(b'{"prompt": "a"}', mtime=0),
            r"is compressed by gzip; unpack it",
        ),
        ("p.pdf", b"%PDF-1.7 and so on", r"p\.pdf: is a PDF document; unpack it or export it"),
        (
            "p.jsonl",
            "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n",
            r"p\.jsonl: is a Git LFS pointer, not the file itself; run `git lfs pull`",
        ),
        (
            "p.parquet",
            "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n",
            r"p\.parquet: is a Git LFS pointer",
        ),
        (
            "p.txt",
            "version https://hawser.github.com/spec/v1\noid sha256:ab\nsize 12\n",
            r"p\.txt: is a Git LFS pointer",
        ),
        ("p.txt", "/annex/objects/SHA256E-s12--ab.txt\n", r"is a git-annex pointer"),
        ("p.txt", "../.git/annex/objects/X/Y/SHA256E-s1--a/SHA256E-s1--a", r"a git-annex pointer"),
        ("p.txt", "# xet version 0\nfilesize = 1\nhash = 'ab'\n", r"is an Xet pointer"),
        ("p.txt", "outs:\n- md5: ab\n  size: 12\n  path: p.txt\n", r"is a DVC pointer"),
        ("p.txt", "<!DOCTYPE html>\n<html><head>\n<title>Sign in", r"p\.txt: is a web page"),
        (
            "p.txt",
            '<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
            r"p\.txt: is an XML document",
        ),
        ("p.txt", "{\\rtf1\\ansi One prompt}", r"p\.txt: is an RTF document"),
        ("p.csv", "prompt\ttopic\na\tb\n".encode("utf-16"), r"is not UTF-8 text; save the file as"),
        ("p.csv", "<!DOCTYPE html>\n<html><body>404</body></html>", r"p\.csv: is a web page"),
        ("prompts", b"", r"prompts: contains no prompt; add"),
        ("p.txt", b"\n \n", r"p\.txt: contains no prompt; add"),
        ("p.jsonl", b"", r"p\.jsonl: contains no prompt; add"),
        ("p.json", b"[]", r"p\.json: contains no prompt; add"),
        ("p.csv", b"", r"p\.csv: contains no prompt; add"),
        ("p.csv", b"prompt\n", r"p\.csv: contains no prompt; add"),
        ("p.jsonl", '{"prompt": ""}', r"contains no prompt \(all 1 rows .*1: The prompt is empty"),
    ],
)
def test_a_file_that_is_not_what_it_promises_says_where_and_what_to_do(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(PromptFileError, match=message):
        read_prompts(write(tmp_path, name, content))


def test_a_parquet_file_without_a_prompt_column_names_its_columns(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "p.parquet", {"a": [1], "b": [2]})
    with pytest.raises(PromptFileError, match=r"has no prompt column \(found: a, b\)"):
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


BAD_ROWS = [
    ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n["b"]\n{"x": 1}\n{"prompt": "c"}', [2, 3, 4]),
    ("p.jsonl", b'{"prompt": "a"}\n{"prompt": "\xe9"}\n{"prompt": "c"}\n', [2]),
    ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": ' + "9" * 5_000 + "}\n" + '{"prompt": "c"}', [3]),
    ("p.json", '["a", 7, {"x": 1}, {"prompt": "c"}]', [2, 3]),
    ("p.json", b'[{"prompt": "a"}, {"prompt": "\xe9"}, {"prompt": "c"}]', [2]),
    ("p.json", b'[{"prompt": "a"}, {"prompt": "b", "who": "Ren\xe9"}, {"prompt": "c"}]', [2]),
    ("p.csv", 'n,prompt\n1,a\n2,"open\n3,x\n4,y "z"\n5,c\n', [3, 4, 5]),
    ("p.csv", 'prompt,n\na,1\n"b\nb"\nc,2\n', [3]),
    ("p.csv", "prompt;n\na;1\nb\nc;2\n", [3]),
    ("p.txt", "prompt;n\na;1\nb\nc;2\n", [3]),
    ("p.txt", "prompt\tn\na\t1\nb\t2\t3\nc\t2\n", [3]),
    ("p.csv", "sep=;\nprompt;n\na;1\nb\nc;2\n", [4]),
    ("p.csv", 'prompt\na\nb, b\n"x" y\nc\n', [3, 4]),
    ("p.csv", "n,prompt\n1,a\n2\n3,c\n", [3]),
    ("p.csv", b"prompt\na\n\xe9\nc\n", [3]),
    ("p.tsv", "n\tprompt\n1\ta\n2\tb\tb\n3\tc\n", [3]),
    ("p.txt", b"a\n\xff\xfe\nc\n", [2]),
]


@pytest.mark.parametrize(("name", "content", "lines"), BAD_ROWS)
def test_bad_rows_of_any_format_are_listed_and_the_others_kept(
    tmp_path: Path, name: str, content: str | bytes, lines: list[int]
) -> None:
    found = read_prompts(write(tmp_path, name, content))
    assert [prompt.text for prompt in found.prompts] == ["a", "c"]
    assert [line for line, _ in found.rejected] == lines
    with pytest.raises(PromptFileError) as refused:
        found.require_good_rows(name, option="--skip-bad-rows")
    assert all(f"{found.row_noun} {line}: " in str(refused.value) for line in lines)
    assert "or skip them with --skip-bad-rows" in str(refused.value)
    found.require_good_rows(name, skip=True)


def test_a_long_list_of_bad_rows_is_cut_and_counted(tmp_path: Path) -> None:
    found = read_prompts(write(tmp_path, "p.jsonl", '{"prompt": "a"}\n' + "x\n" * 500))
    assert len(found.rejected) == 500
    assert "(490 more.)" in found.describe_rejected()


@pytest.mark.parametrize("name", ["p.csv", "p.txt", "p.tsv", "upload", "p.data"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_of_a_table_is_found(tmp_path: Path, name: str, separator: str) -> None:
    rows = [["id", "prompt", "topic"], ["1", "one, two; three", "x"], ["2", "four|five\tsix", "y"]]
    lines = [separator.join(f'"{cell}"' for cell in row) for row in rows]
    found = read_prompts(write(tmp_path, name, "\n".join(lines)))
    assert [prompt.text for prompt in found.prompts] == ["one, two; three", "four|five\tsix"]
    assert found.extra[compute_prompt_id("one, two; three")] == {"id": "1", "topic": "x"}


@pytest.mark.parametrize("name", ["p.csv", "p.txt", "p.tsv", "upload"])
def test_names_of_columns_may_be_capitalized(tmp_path: Path, name: str) -> None:
    found = read_prompts(write(tmp_path, name, "Topic;Prompt\nx;one\ny;two\n"))
    assert [prompt.text for prompt in found.prompts] == ["one", "two"]
    assert found.extra[compute_prompt_id("one")] == {"Topic": "x"}


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("p.txt", "Write a list: text, prompt, image\nSing.", "txt"),
        ("p.txt", "text, image, sound: which is which?\nSing.\n", "txt"),
        ("p.txt", "[INST] Sing. [/INST]\n", "txt"),
        ("p.txt", "{name} writes a poem.\n", "txt"),
        ("p.txt", "<html> is what?\n", "txt"),
        ("p.txt", '{"prompt": "one"}\n{"prompt": "two"}\n', "jsonl"),
        ("p.json", '{"prompt": "one"}\n{"prompt": "two"}\n', "jsonl"),
        ("p.json", '{\n  "prompt": "one"\n}\n', "json"),
        ("p.jsonl", '[\n  {"prompt": "one"}\n]\n', "json"),
        ("p.exe", "one\ntwo\n", "txt"),
        ("p.parquet", "one\ntwo\n", "txt"),
        ("p.jsonl", "prompt,topic\none,x\n", "jsonl"),
        ("p.data", "prompt\none\n", "csv"),
    ],
)
def test_the_content_says_what_a_file_is_and_the_suffix_what_it_leaves_open(
    name: str, content: str, kind: str
) -> None:
    assert detect_format(content.encode(), name) == kind
    assert detect_format(content.encode(), f"stored.{kind}") == kind


@given(st.binary(max_size=60) | st.text(alphabet='[]{}":,;\t|\nprompt text1').map(str.encode))
def test_a_stored_file_is_read_again_as_what_it_was_found_to_be(data: bytes) -> None:
    for name in ("upload", *(f"p.{kind}" for kind in FORMATS)):
        try:
            kind = detect_format(data, name)
        except PromptFileError:
            continue
        assert detect_format(data, f"stored.{kind}") == kind


TREE = {
    "message_tree_id": "t",
    "tree_state": "ready_for_export",
    "prompt": {
        "message_id": "t",
        "text": "First?",
        "role": "prompter",
        "replies": [{"text": "Yes.", "role": "assistant", "replies": []}],
    },
}
FLAT = [
    {"message_id": "a", "parent_id": None, "text": "First?", "role": "prompter"},
    {"message_id": "b", "parent_id": "a", "text": "Yes.", "role": "assistant"},
    {"message_id": "c", "parent_id": "b", "text": "Why?", "role": "prompter"},
]
SHARED = {"conversations": [{"from": "human", "value": "First?"}, {"from": "gpt", "value": "Yes."}]}


@pytest.mark.parametrize(
    ("rows", "other_turns"), [([TREE], 0), (FLAT, 2), ([SHARED], 0)], ids=["tree", "flat", "shared"]
)
def test_of_a_conversation_only_the_first_user_turn_becomes_a_prompt(
    tmp_path: Path, rows: list[dict[str, object]], other_turns: int
) -> None:
    as_lines = write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows)))
    as_array = write(tmp_path, "p.json", json.dumps(rows))
    as_parquet = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pylist(rows), as_parquet)
    for file in (as_lines, as_array, as_parquet):
        found = read_prompts(file)
        assert [prompt.text for prompt in found.prompts] == ["First?"]
        assert (found.other_turns, found.rejected) == (other_turns, [])


@pytest.mark.parametrize("role", ["Assistant", "ASSISTANT", "ai", "system", "tool", "gpt"])
def test_a_turn_of_another_role_never_becomes_a_prompt(tmp_path: Path, role: str) -> None:
    flat = [{"text": "First?", "role": "Prompter"}, {"text": "Yes.", "role": role}]
    tree = [{"prompt": row} for row in flat]
    messages = [{"messages": [{"role": row["role"], "content": row["text"]}]} for row in flat]
    for rows in (flat, tree, messages):
        found = read_prompts(write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows))))
        assert [prompt.text for prompt in found.prompts] == ["First?"]


@pytest.mark.parametrize("none", ["", "None", "null", "NaN"])
def test_a_message_without_a_parent_is_known_in_a_table(tmp_path: Path, none: str) -> None:
    lines = [
        "parent_id,text,role",
        f"{none},First?,prompter",
        "a,Yes.,assistant",
        "b,Why?,prompter",
    ]
    found = read_prompts(write(tmp_path, "p.csv", "\n".join(lines)))
    assert ([prompt.text for prompt in found.prompts], found.other_turns) == (["First?"], 2)


@pytest.mark.parametrize(
    "text",
    [
        "### Human: First?### Assistant: Yes.### Human: Why?",
        "### Human: First?\n### Assistant: Yes.",
        "\n\nHuman: First?\n\nAssistant: Yes.\n\nHuman: Why?\n\nAssistant:",
    ],
)
def test_of_a_conversation_in_one_text_only_the_first_turn_becomes_a_prompt(
    tmp_path: Path, text: str
) -> None:
    found = read_prompts(write(tmp_path, "p.jsonl", json.dumps({"text": text})))
    assert [prompt.text for prompt in found.prompts] == ["First?"]


@pytest.mark.parametrize("text", ["### Human: alone", "Who is Human: or Assistant:?", "# Human:"])
def test_a_text_without_an_assistant_turn_is_a_prompt_as_written(tmp_path: Path, text: str) -> None:
    found = read_prompts(write(tmp_path, "p.jsonl", json.dumps({"text": text})))
    assert [prompt.text for prompt in found.prompts] == [text]


def test_the_text_parts_of_a_message_are_one_prompt(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "First, "}, {"type": "text", "text": "second."}]
    row = json.dumps({"messages": [{"role": "user", "content": parts}]})
    found = read_prompts(write(tmp_path, "a.jsonl", row))
    assert [prompt.text for prompt in found.prompts] == ["First, second."]


def test_two_columns_of_one_name_are_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match=r"a\.csv, line 1: has 2 columns named prompt"):
        read_prompts(write(tmp_path, "a.csv", "prompt,id,prompt\na,1,b\n"))


def test_a_file_of_assistant_turns_alone_contains_no_prompt(tmp_path: Path) -> None:
    file = write(tmp_path, "p.jsonl", json.dumps(FLAT[1]))
    with pytest.raises(PromptFileError, match="only 1 later or assistant turns"):
        read_prompts(file)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("txt", "a\r" * 41),
        ("txt", "".join(f"{number}\n" for number in range(11))),
        ("jsonl", '{"prompt": "x"}\n' * 11),
        ("csv", "prompt\n" + "x\n" * 11),
        ("csv", "prompt\n" + "\n" * 41),
        ("json", json.dumps(["a"] * 11)),
    ],
    ids=["lines", "text", "jsonl", "csv", "blank lines", "json"],
)
def test_more_rows_than_allowed_are_refused(tmp_path: Path, suffix: str, content: str) -> None:
    file = write(tmp_path, f"prompts.{suffix}", content)
    with pytest.raises(PromptFileError, match="more than 10 rows or 40 lines"):
        read_prompts(file, max_rows=10)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_as_many_rows_as_allowed_are_read(tmp_path: Path, suffix: str) -> None:
    file = write_any(tmp_path, suffix, [f"prompt {number}" for number in range(10)])
    assert len(read_prompts(file, max_rows=10).prompts) == 10
    with pytest.raises(PromptFileError, match="more than 9 rows"):
        read_prompts(file, max_rows=9)


def test_an_array_of_more_values_than_rows_can_have_is_not_read(tmp_path: Path) -> None:
    file = write(tmp_path, "prompts.json", json.dumps([{"prompt": "x", "n": [0] * 100}]))
    with pytest.raises(PromptFileError, match="more than 50 values"):
        read_prompts(file, max_rows=10)


def test_a_table_of_too_many_columns_is_refused(tmp_path: Path) -> None:
    names = ["prompt", *(f"c{number}" for number in range(1000))]
    files = [
        write(tmp_path, "prompts.csv", f"{','.join(names)}\n{','.join('x' * len(names))}\n"),
        write_parquet(tmp_path / "prompts.parquet", {name: ["x"] for name in names}),
    ]
    for file in files:
        with pytest.raises(PromptFileError, match="has 1,001 columns, more than 1,000"):
            read_prompts(file)
