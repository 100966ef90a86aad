"""Old options of command lines: they work, they are hidden, and they warn."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from meta_reward_core.cli.renamed_options import add_old_option, add_old_positionals
from meta_reward_core.errors import DeprecatedNameWarning


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="x")
    output = parser.add_argument("--output", required=True, type=Path)
    add_old_option(parser, "--out", output)
    either = parser.add_mutually_exclusive_group()
    only = either.add_argument("--only", nargs="+", choices=["a", "b"], default=["a"])
    add_old_option(either, "--what", only)
    either.add_argument("--all", action="store_true")
    names = parser.add_argument("--name", action="append", required=True, metavar="NAME")
    add_old_positionals(parser, names)
    flag = parser.add_argument("--late", action="store_true")
    add_old_option(parser, "--at-the-end", flag)
    return parser


NEW = ["--output", "y", "--name", "one"]
BOTH = [
    (["--out", "y", "--name", "one"], NEW, "--out is deprecated: use --output"),
    (["--out=y", "--name", "one"], NEW, "--out is deprecated: use --output"),
    ([*NEW, "--what", "a", "b"], [*NEW, "--only", "a", "b"], "--what is deprecated: use --only"),
    ([*NEW, "--at-the-end"], [*NEW, "--late"], "--at-the-end is deprecated: use --late"),
    (
        ["one", "two", "--output", "y"],
        ["--name", "one", "--name", "two", "--output", "y"],
        "NAME without an option is deprecated: use --name NAME",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), BOTH)
def test_an_old_argument_is_read_as_todays_and_warns(
    old: list[str], new: list[str], message: str
) -> None:
    with pytest.warns(DeprecatedNameWarning) as said:
        found = make_parser().parse_args(old)
    assert found == make_parser().parse_args(new)
    assert [str(one.message) for one in said] == [message]


def test_todays_names_say_nothing() -> None:
    found = make_parser().parse_args(NEW)
    assert (found.output, found.only, found.name, found.late) == (Path("y"), ["a"], ["one"], False)


def test_help_does_not_show_old_names() -> None:
    shown = make_parser().format_help()
    assert "--output" in shown
    for old in ("--out ", "--what", "--at-the-end", "name_by_position"):
        assert old not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "one"], "required: --output"),
        (["--output", "y"], "required: --name"),
        ([*NEW, "--what", "c"], "invalid choice: 'c'"),
        ([*NEW, "--what", "a", "--all"], "not allowed with argument"),
    ],
)
@pytest.mark.filterwarnings("ignore:--what is deprecated")
def test_what_is_wrong_stays_wrong(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(arguments)
    assert message in capsys.readouterr().err


def test_the_command_line_prints_each_deprecation_as_one_line_on_stderr(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meta_reward_core", "--experiment", "x", "--dry-run",
         "--set", "judge.top_points=10", "--json", str(tmp_path / "plan.json")],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stderr.splitlines() == [
        "warning: --json is deprecated: use --output",
        "warning: judge.top_points is deprecated: use judge.max_score",
    ]
    assert "deprecated" not in done.stdout
    assert (tmp_path / "plan.json").is_file()
