"""The part of a reply that counts: what follows its closed reasoning."""

import re
from typing import Final

_TAG: Final = re.compile(
    r"(?<![`\"'\u201c\u2018])(?:"
    r"<(?P<closes>/?)(?:think|thinking|thought|thoughts|reasoning|reason|reflection|scratchpad"
    r"|analysis|begin_of_thought|seed:think)\s{0,3}>"
    r"|(?P<opens_other>\[THINK\]|<\|begin_of_thought\|>|\u25c1think\u25b7"
    r"|<\|channel\|>\s{0,3}analysis)"
    r"|(?P<closes_other>\[/THINK\]|<\|end_of_thought\|>|\u25c1/think\u25b7"
    r"|<\|channel\|>\s{0,3}final))",
    re.IGNORECASE,
)
"""Marks of reasoning blocks in public chat templates: Qwen, DeepSeek, Magistral, Kimi, gpt-oss."""


def extract_finished_part(text: str) -> str | None:
    """What follows the last closed reasoning block; None while one is open.

    A closing tag without an opening one counts, too: the template may have written the opening
    one into the prompt.
    """
    start, is_open = 0, False
    for tag in _TAG.finditer(text):
        if tag["closes"] or tag["closes_other"]:
            start, is_open = tag.end(), False
        else:
            is_open = True
    return None if is_open else text[start:]
