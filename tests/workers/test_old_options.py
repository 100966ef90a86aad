"""Options that `manage.py` commands had before: each still means what it meant."""

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import CommandParser

from meta_reward_core.errors import DeprecatedNameWarning

EVALUATED = "--judge scripted"
BUILT = "--ranked r --judge scripted --output o"
AUDITED = "--experiment x --iteration 1"
TRAINED = "--model m --data d --output o"
OPTIONS = [
    ("run_iteration", "--experiment x", "--json f", "--output f"),
    ("run_iteration", "--experiment x", "--draws f", "--completion-cache f"),
    ("show_iteration", "--experiment x", "--json f", "--output f"),
    ("plan", "--recipe smoke --hardware h200", "--json f", "--output f"),
    ("report", "", "one two", "--experiment one --experiment two"),
    ("prune", "", "--what scratch uploads", "--only scratch uploads"),
    ("generate_prompts", "--seed-prompts s --engine e --count 2", "--out f", "--output f"),
    ("generate_prompts", "--engine e --count 2 --output f", "--seeds s", "--seed-prompts s"),
    *(
        ("generate_prompts", "--seed-prompts s --engine e --count 2 --output f", old, new)
        for old, new in [
            ("--hold-out 1", "--num-held-out 1"),
            ("--least-chars 3", "--min-chars 3"),
            ("--most-chars 30", "--max-chars 30"),
            ("--similar 0.5", "--rouge-threshold 0.5"),
            ("--own-shots 1", "--generated-shots 1"),
        ]
    ),
    ("build_eft", BUILT, "--most-share 0.5", "--max-share 0.5"),
    ("build_eft", BUILT, "--top-points 10", "--max-score 10"),
    ("create_audit", AUDITED, "--same-share 0", "--same-auditor-share 0"),
    ("create_audit", AUDITED, "--other-share 0", "--other-auditor-share 0"),
    ("create_audit", AUDITED, "--reveal-at-the-end", "--reveal-at-end"),
    ("train_seed", TRAINED, "--warmup-share 0.2", "--warmup-ratio 0.2"),
    ("train_seed", TRAINED, "--keep last", "--checkpoint-selection last"),
    ("train_seed", TRAINED, "--stop-at-loss-growth 4", "--max-loss-ratio 4"),
    *(
        ("evaluate", f"{kind} f", old, new)
        for kind in ("annotations", "arena", "mt-bench", "reward-bench", "judge")
        for old, new in [("--json o", "--output o"), ("--keep x/M1", "--save-to x/M1")]
    ),
    ("evaluate", "judge f", "--reference-is humans", "--reference-type humans"),
    *(
        ("evaluate", f"run judge {EVALUATED} --output o", old, new)
        for old, new in [
            ("--reference-is humans", "--reference-type humans"),
            ("--top-points 10", "--max-score 10"),
            ("--judge-tokens 9", "--judge-max-new-tokens 9"),
            ("--shard 9", "--shard-size 9"),
        ]
    ),
    ("evaluate", f"run judge {EVALUATED}", "--out o", "--output o"),
]


def make_parser(command: str) -> CommandParser:
    return load_command_class(str(get_commands()[command]), command).create_parser("", command)


@pytest.mark.parametrize(("command", "given", "old", "new"), OPTIONS)
def test_an_old_option_is_read_as_todays(command: str, given: str, old: str, new: str) -> None:
    expected = make_parser(command).parse_args(f"{given} {new}".split())
    with pytest.warns(DeprecatedNameWarning, match=f"use {new.split()[0]}"):
        found = make_parser(command).parse_args(f"{given} {old}".split())
    assert found == expected


@pytest.mark.parametrize("command", sorted({one[0] for one in OPTIONS}))
def test_no_help_shows_an_old_option(command: str) -> None:
    shown = make_parser(command).format_help().replace("\n", " ").split()
    for name, _, old, new in OPTIONS:
        if name == command and old.startswith("--"):
            assert old.split()[0] not in shown, new
