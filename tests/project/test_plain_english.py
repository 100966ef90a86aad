"""Texts use plain English and the standard terms of CONTRIBUTING.md.

Each pattern is a phrase that editors found unclear, with what to write instead. Code, link targets
and identifiers are not read.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.project.test_docs import CHECKOUT

COVERED: Final = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "Makefile", "docs", "docker"),
    *("templates", "meta_reward_core", "webapp", "workers", "benchmarks"),
)
EXEMPT: Final = {
    "meta_reward_core/evaluation/arena_hard_judge.py": "a benchmark's prompt, which is data",
    "meta_reward_core/method/parsing/scores.py": "words that the parser looks for",
    "webapp/api/models.py": "a label that a migration repeats",
}
"""Paths that are not checked, and why."""

BANNED: Final = {
    # Relative clauses without a noun, inversions, and clauses that only refer to themselves.
    r"\bwhoever\b": "name the user or process",
    r"(?:^|[.;:] )Who\b(?![^.?]*\?)": "name the user: 'users who ...'",
    r"\bwhat is left\b": "the rest, the remaining ...",
    r"\bas (it|they) (is|are|was|were|stands?)\b(?! (stored|shown|written|needed|sent|used))": (
        "unchanged, current"
    ),
    r"\bas is shipped\b": "as shipped, built-in",
    r"(?:^|[.:] )(Judged|Compared|Published|Shipped|Kept|Named|Simulated|Tried|Told) (is|are)\b": (
        "subject first"
    ),
    r"\b(is|are) to be \w+ed\b": "must be ...",
    r"\bcan be had\b": "is available",
    # Possessives and 'of' fragments.
    r"\bpeople's\b": "human, users'",
    r"\b[Oo]f everything (random|that)\b": "a noun phrase: 'Random seed'",
    r"\bthe hub\b": "the Hub, or the Hugging Face Hub",
    # Verbs in place of start, resume, run again, report, sample, is, is stored, result.
    r"\bbegun\b": "started, created",
    r"\b(experiments?|iterations?|runs?|trainings?|stages?) (begins?|began)\b": "starts",
    r"\b(go|goes|going|went|gone) on\b": "continue, resume",
    r"\b(make|makes|made|making)( \w+)? again\b": "run again, compute again",
    r"\b(tells?|told) (what|how|who|whether|which|why|of|by|that)\b": "report, show, notify",
    r"\b(is|are|was|were) told\b": "is reported, is notified, receives",
    r"(\bsays|^Say|[.] Say) (what|how|who|which|where|why|whether|so)\b": "return, state, define",
    r"\b(is|are|was|were|be|been) drawn\b": "sampled, generated",
    r"\bdrawn (token|ids|with)\b": "sampled",
    r"\bdraws? (tokens|responses|prompts|judgments|items|an? batch|audits)\b": "sample, generate",
    r"\bstands? (in|on|at|beside|behind|there|under|by)\b": "is in, is at",
    r"\b(lies|lie|lay) (in|on|at|under|below|beside|there|here|within|outside|with)\b": (
        "is in, is stored in"
    ),
    r"\bc[ao]mes? of (it|them|each|an?)\b": "result of",
    r"\bmend(s|ed|ing)?\b": "fix, correct",
    r"\b(carry|carries|carried|carrying) out\b": "run",
    # Negations that hide the verb.
    r"(?<!here )\b(is|are|was|were) no (?!longer\b|more\b)\w+": "is not a ..., does not ...",
    r"\b(takes|answers|names|knows|asks) (no|nothing)\b": "does not ...",
    r"\bdid not take\b": "refused, failed",
    # Words that mean something else in this field.
    r"\bin words\b": "leave it out",
    r"\bwithout a word\b": "silently",
    r"\bin silence\b": "silently",
    r"\b([Ee]ach|[Ee]very|[Tt]hese|[Oo]ther|primary|older) figures?\b": "metric, value",
    r"\b[Ff]igures? (is|are|was|were|of|that|from)\b": "metric, value",
    r"\b(judge's|mean of the|equal|no|same|human) points\b": "score",
    r"\bpoints of (every|an?|the|each) (judgment|response)\b": "score",
    r"\b(a|the|this|his|her|their|each|of) wish(es)?\b": "request, payload",
    r"\b(a|the|get|gets|has|have|sends?) notices?\b": "notification",
    r"\bdesk\b": "annotation page",
    r"\bhopeless\b": "early stopping",
    r"\bunread\b": "unscored, unreadable",
    r"\bminiature world\b": "toy task",
    r"\boutside judges?\b": "external judge",
    r"\bholds? the truth\b": "covers the truth",
    # Personification.
    r"\b([Rr]ows?|[Ff]iles?|[Mm]anifests?|[Rr]ecipes?) (says?|knows?|tells?|wants?)\b": (
        "contains, defines, requires"
    ),
    r"\bshows itself\b": "is alive, sends a heartbeat",
    r"\b([Nn]o|[Ss]ome|[Aa]ny|[Ee]very)body\b": "name the user, or use the passive",
    # Old-fashioned or private words.
    r"\banew\b": "again",
    r"\bfor ever\b": "permanently, forever",
    r"\bshall\b": "must, should, will",
    r"\bso many\b": "the number of ...",
    r"\bbeside (it|them|the|each|another|other|an?)\b": "next to, with",
    r"\ball but\b": "all except",
    r"\bbut for\b": "except for",
    r"\bquarter of an hour\b": "15 minutes",
    r"(?<!cryptography )\bat rest\b": "inactive",
    r"\bin earnest\b": "leave it out",
}
"""By pattern what to write instead; the comments above are the reasons."""

MATCHERS: Final = [(re.compile(pattern, re.MULTILINE), use) for pattern, use in BANNED.items()]
_CODE: Final = re.compile(
    r"^```.*?^```|``.*?``|`[^`]*`|<!--.*?-->|\]\([^)\s]*\)|\{[{%#].*?[}%#]\}|<[^>]*>",
    re.DOTALL | re.MULTILINE,
)


def read_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of all texts of a file, without code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from read_python_texts(text)
    else:
        yield 1, _CODE.sub(lambda code: "·" + "\n" * code[0].count("\n"), text)


def read_python_texts(text: str) -> Iterator[tuple[int, str]]:
    """Yield comments (runs of lines as one text) and string constants."""
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line, words = token.start[0], token.string.lstrip("#: ")
            if comments and comments[-1][0] + comments[-1][1].count("\n") + 1 == line:
                comments[-1] = (comments[-1][0], f"{comments[-1][1]}\n{words}")
            else:
                comments.append((line, words))
    strings = [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.search(r"\s", node.value)
    ]
    for line, words in comments + strings:
        yield line, _CODE.sub(lambda code: "·" + "\n" * code[0].count("\n"), words)


def find_banned(path: Path) -> list[str]:
    """List each banned phrase of a file with its line and what to write instead."""
    found = []
    for start, text in read_texts(path):
        joined = re.sub(r"\s*\n\s*(?=\S)", lambda gap: " " * len(gap[0]), text)
        for matcher, use in MATCHERS:
            for match in matcher.finditer(joined):
                line = start + text[: match.start()].count("\n")
                phrase = " ".join(match[0].split())
                found.append(f"{path.relative_to(CHECKOUT)}:{line}: {phrase!r}: write {use}")
    return found


def list_files(name: str) -> list[Path]:
    """List the files with texts at or below a path."""
    path = CHECKOUT / name
    below = [path] if path.is_file() else sorted(path.rglob("*"))
    kinds = {".md", ".py", ".html", ".txt", ".yaml", ".yml", ".sh", ".Dockerfile", ""}
    skipped = {"migrations", "prompts", "seed_model", "runs", "_templates", "__pycache__"}
    return [
        one
        for one in below
        if one.is_file()
        and one.suffix in kinds
        and not skipped & set(one.relative_to(CHECKOUT).parts)
    ]


def is_below(path: Path, names: Iterable[str]) -> bool:
    return any(path.is_relative_to(CHECKOUT / name) for name in names)


@pytest.mark.slow  # `make check` runs it, too
@pytest.mark.parametrize("name", COVERED)
def test_texts_use_no_banned_phrase(name: str) -> None:
    files = [path for path in list_files(name) if not is_below(path, EXEMPT)]
    assert [found for path in files for found in find_banned(path)] == []


@pytest.mark.parametrize("name", EXEMPT)
def test_only_files_with_a_banned_phrase_are_exempt(name: str) -> None:
    files = list_files(name)
    assert files, f"{name} does not exist"
    assert any(map(find_banned, files)), f"{name} is clean: remove it from EXEMPT"


def test_phrases_are_found_in_texts_and_not_in_code(tmp_path: Path) -> None:
    """And across line ends, which a text wraps at."""
    python = '"""Nobody\nasks."""\nwish = "go"  # whoever goes\n# on `anew`\n'
    assert [(line, text) for line, text in read_python_texts(python)] == [
        (3, "whoever goes\non ·"),
        (1, "Nobody\nasks."),
    ]
    page = CHECKOUT / "docs" / "index.md"
    assert find_banned(page) == []
    assert [use for matcher, use in MATCHERS if matcher.search("the run goes on")] == [
        "continue, resume"
    ]
