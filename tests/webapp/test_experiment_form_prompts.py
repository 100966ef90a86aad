"""Prompts that a person sends: known by their content, looked at before they are used."""

import io
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from pytest_django.fixtures import Settings

from meta_reward_core.data.prompt_files import PromptFile, read_prompts
from meta_reward_core.errors import PromptFileError
from tests.webapp.experiment_form_fixtures import HTMX, NEW, filled, launch, only_job, storage_roots
from webapp.experiment_form import uploads
from webapp.experiment_form.launch_request import read_payload
from webapp.experiment_form.uploads import get_stored_path, store_prompts
from webapp.experiments.models import Job

pytestmark = pytest.mark.django_db

__all__ = ["storage_roots"]

MANY = "".join(f"question {number}?\n" for number in range(80))


def send(client: Client, data: bytes, name: str = "prompts.txt", **changes: Any) -> Any:
    file = SimpleUploadedFile(name, data)
    given = filled(prompts_from="file", prompts_file=file, **changes)
    return client.post(f"{NEW}/prompts", given, headers=HTMX)


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"one\ntwo\n", "txt"),
        (b'{"prompt": "one"}\n', "jsonl"),
        (b"topic,prompt\nx,one\n", "csv"),
        (parquet({"instruction": ["one"]}), "parquet"),
        (b"[one] is no list\n", "txt"),
        (b'["one"]', "json"),
        (b"topic;prompt\nx;one\n", "csv"),
        (b"topic\tprompt\nx\tone\n", "tsv"),
    ],
)
@pytest.mark.parametrize("name", ["prompts.exe", "prompts.parquet"])
def test_content_says_what_a_file_is(client: Client, data: bytes, kind: str, name: str) -> None:
    assert send(client, data, name).context["state"].prompts.found.kind == kind


def test_what_nobody_has_used_for_long_is_removed(client: Client, settings: Settings) -> None:
    names = [store_prompts([text], called="x").name for text in (b"old", b"used", b"new")]
    root = Path(settings.META_REWARD_UPLOAD_ROOT)
    left = root / ".received-by-a-process-that-was-killed"
    left.mkdir()
    long_ago = time.time() - 86_400 * (settings.META_REWARD_UPLOAD_DAYS + 1)
    for path in (root / names[0], root / names[1], left):
        os.utime(path, (long_ago, long_ago))
    get_stored_path(names[1])
    fourth = store_prompts([b"another"], called="x").name
    assert {path.name for path in root.iterdir()} == {names[1], names[2], fourth}
    with pytest.raises(PromptFileError, match="upload it again"):
        get_stored_path(names[0])


def test_what_is_too_long_to_be_pasted_is_refused_in_words(
    client: Client, settings: Settings
) -> None:
    answer = client.post(NEW, filled(prompts_from="text", prompts_text="x" * 1_000_001))
    assert "at most 1000000 characters" in answer.content.decode()
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100_000
    refused = client.post(NEW, filled(prompts_from="text", prompts_text="x" * 200_000))
    assert refused.status_code == 400
    assert "larger than 0.1 MB. Send a long list of prompts as a file" in refused.content.decode()
    assert not Job.objects.exists()


def test_a_preview_shows_the_first_and_what_was_rejected(client: Client) -> None:
    lines = [{"prompt": "<b>one</b>"}, {"prompt": ""}, {"prompt": "<b>one</b>"}, {"prompt": 3}]
    answer = send(client, "\n".join(map(json.dumps, lines)).encode(), "<i>mine.jsonl")
    region = answer.content.decode()
    assert "<html" not in region
    assert "&lt;i&gt;mine.jsonl" in region
    assert "&lt;b&gt;one&lt;/b&gt;" in region
    assert "<b>one</b>" not in region
    assert "1 duplicate left out; 2 rejected" in region
    assert "2 rows cannot be used. Correct the file and upload it again, or skip" in region
    assert "Line 2: The prompt is empty." in region
    assert "Line 4: The prompt is neither a string nor a list of messages." in region
    assert answer.headers["HX-Trigger-After-Swap"] == "prompts-ready"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x00\x01\x02", "prompts.txt: is neither text nor Parquet"),
        (b"\xff\xfe hello", "prompts.txt, line 1: is not UTF-8 text"),
        (b'["one", "two"', "prompts.txt: the JSON is incomplete: it ends at line 1"),
        (b'{"prompt": ', "line 1: The line is not valid JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid x", "prompts.txt: is a Git LFS pointer"),
        (b'{"other": 1}', "has no prompt"),
        (b"PAR1 is not enough", "prompts.txt: is not a readable Parquet file"),
        (b"\n\n", "prompts.txt: contains no prompt"),
        (parquet({"other": [1]}), "has no prompt"),
    ],
)
def test_what_cannot_be_read_is_told_and_not_kept(
    client: Client, storage_roots: Path, data: bytes, problem: str
) -> None:
    assert problem in send(client, data).content.decode()
    assert list((storage_roots / "uploads").iterdir()) == []


def test_a_file_that_was_sent_is_launched_from_what_was_kept(client: Client) -> None:
    found = send(client, MANY.encode()).context["state"].prompts.found
    launch(client, prompts_from="file", prompts_stored=found.name, prompts_called="mine.txt")
    payload = only_job().payload
    prompts = read_payload(payload).prompts
    assert prompts is not None
    assert (prompts.stored_name, payload["prompts_called"]) == (found.name, "mine.txt")
    assert len(read_prompts(get_stored_path(found.name)).prompts) == 80


def test_without_javascript_the_file_comes_with_the_launch(client: Client) -> None:
    launch(client, prompts_from="file", prompts_file=SimpleUploadedFile("p.txt", MANY.encode()))
    assert only_job().payload["prompts_called"] == "p.txt"


def test_pasted_text_is_kept_only_when_it_is_launched(client: Client, storage_roots: Path) -> None:
    given = filled(prompts_from="text", prompts_text=MANY)
    region = client.post(f"{NEW}/prompts", given, headers=HTMX).content.decode()
    assert "80 prompts" in region
    assert list((storage_roots / "uploads").iterdir()) == []
    launch(client, prompts_from="text", prompts_text=MANY)
    assert only_job().payload["prompts"]["format"] == "txt"


def test_a_file_that_is_too_large_is_dropped(
    client: Client, settings: Settings, storage_roots: Path
) -> None:
    settings.META_REWARD_UPLOAD_BYTES = 100_000
    page = send(client, b"x" * 300_000).content.decode()
    assert "The file is larger than 0.1 MB." in page
    assert not (storage_roots / "uploads").exists()
    answer: Any = launch(
        client, prompts_from="file", prompts_file=SimpleUploadedFile("p.txt", b"x\n" * 150_000)
    )
    assert "The file is larger than 0.1 MB." in answer.content.decode()
    assert not Job.objects.exists()


def test_a_parquet_bomb_is_refused_before_it_is_unpacked(
    settings: Settings, storage_roots: Path
) -> None:
    """One text of 10,000 characters in 100,000 rows: 1 GB in a file of a few thousand bytes."""
    settings.META_REWARD_UPLOAD_BYTES = 100_000
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["x" * 10_000])
    data = parquet({"prompt": texts.cast(pa.dictionary(pa.int32(), pa.string()))})
    assert len(data) < 100_000
    with pytest.raises(PromptFileError, match="unpacks to more than"):
        store_prompts([data], called="bomb.parquet")


def test_one_row_that_unpacks_to_gigabytes_is_refused_outside_of_the_site(
    settings: Settings, storage_roots: Path
) -> None:
    """A list of 4,000 equal texts of a million characters, in 50 kB."""
    settings.META_REWARD_UPLOAD_BYTES = 1_000_000
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), ["x" * 1_000_000])
    lists = pa.ListArray.from_arrays(pa.array([0, 4000], pa.int32()), texts)
    data = parquet({"messages": lists}, store_schema=False)
    assert len(data) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PromptFileError, match="unpacks to more than"):
        store_prompts([data], called="bomb.parquet")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_parquet_file_of_too_many_rows_is_refused(storage_roots: Path) -> None:
    data = parquet({"prompt": pa.nulls(1_000_001, pa.string())})
    with pytest.raises(PromptFileError, match="more than 1,000,000 rows"):
        store_prompts([data], called="rows.parquet")


@pytest.mark.parametrize(
    ("start", "part", "end"),
    [
        (b"[", b'"a",', b'"a"]'),
        (b"", b"a\r", b""),
        (b"prompt\n", b"\n", b""),
        (b"prompt", b",c", b""),
    ],
    ids=["an array of texts", "lines", "blank lines", "columns"],
)
def test_a_file_of_millions_of_rows_takes_little_time(
    start: bytes, part: bytes, end: bytes, storage_roots: Path
) -> None:
    data = start + part * (28_000_000 // len(part)) + end
    begin = time.process_time()
    with pytest.raises(PromptFileError, match="more than"):
        store_prompts([data], called="rows.csv" if start.startswith(b"prompt") else "rows")
    assert time.process_time() - begin < 10


def test_a_large_file_is_refused_while_another_one_is_read(
    client: Client, storage_roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = b"".join(b"question %d?\n" % number for number in range(80_000))
    said: list[str] = []

    def read_both(*given: Any, **named: Any) -> PromptFile:
        if not said:
            said.append("")
            said[0] = send(client, large).content.decode()
            assert "another large file is being read" not in send(client, b"small").content.decode()
        return read_prompts(*given, **named)

    monkeypatch.setattr(uploads, "read_prompts", read_both)
    assert "another large file" not in send(client, large).content.decode()
    assert "another large file is being read; try again in a few seconds" in said[0]
    assert "another large file" not in send(client, large).content.decode()


@pytest.mark.parametrize("name", ["", "../x.txt", "a" * 64 + ".exe", "b" * 64 + ".txt"])
def test_only_what_was_kept_is_found(storage_roots: Path, name: str) -> None:
    with pytest.raises(PromptFileError, match="no longer exists"):
        get_stored_path(name)


def test_the_same_file_sent_twice_is_one_file(storage_roots: Path) -> None:
    names = {store_prompts([b"one\n"], called=called).name for called in ("a", "b")}
    assert [file.name for file in (storage_roots / "uploads").iterdir()] == list(names)


def test_rejected_rows_stop_the_launch_until_the_user_skips_them(client: Client) -> None:
    """The list of rows stays; the same file without them is what the experiment begins with."""
    data = MANY.encode() + b"\xff\n"
    found = send(client, data).context["state"].prompts.found
    sent = {"prompts_from": "file", "prompts_stored": found.name, "prompts_called": "mine.txt"}
    answer: Any = launch(client, **sent)
    assert "1 row cannot be used as a prompt" in answer.content.decode()
    assert not Job.objects.exists()
    launch(client, **sent, skip_bad_rows="on")
    assert only_job().payload["skip_bad_rows"] is True
