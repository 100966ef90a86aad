"""Check the chat template: what it adds around a text, and whether it keeps the text.

A chat template is a program that is rarely reviewed. Every check here renders small conversations,
the same way that engines and training render theirs.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from meta_reward_core.models.chat import (
    ChatOptions,
    find_opened_reasoning,
    render_chat,
    render_generation_prompt,
)
from meta_reward_core.models.check.needs import ModelNeeds
from meta_reward_core.models.check.result import Check, Level
from meta_reward_core.models.fingerprint import find_end_token_ids
from meta_reward_core.models.reasoning import find_marks
from meta_reward_core.models.template_files import (
    DEFAULT_TEMPLATE,
    ChatTemplateFile,
    find_unused_template,
    read_chat_templates,
)

_USER: Final = "userwords"
_SYSTEM: Final = "systemwords"
_REPLY: Final = "replywords"
_DATES: Final = ("2001-02-03", "2031-12-30")
_MAX_HEAD_WORDS: Final = 3
"""Maximum words before the first prompt that count as names of roles; more are inserted text."""
_EXCERPT_CHARS: Final = 80
_MARKER: Final = re.compile(r"<\|?/?[A-Za-z][\w/-]*\|?>")
_ROUND_TRIPS: Final = {
    "plain text": "Water boils at 100 degrees.",
    "several lines": "First line\nsecond line\n\nnew paragraph",
    "leading blank lines": "\n\nThe answer",
    "leading spaces": "  indented",
    "trailing blank lines": "The answer\n\n",
    "trailing spaces": "The answer  ",
    "markdown": "# Title\n\n- *one*\n- **two**\n\n> quote",
    "code": "```python\nif x:\n    y = '<b>&amp;</b>'\n```",
    "an empty text": "",
    "other scripts": "\u00dcn\u00ef \u6c34 \U0001f30a \u0635",
    "template syntax": "{{ x }} {% if y %}",
}
"""Texts that a template should render unchanged, by the kind of text that they represent."""
_LONG_TEXT: Final = " ".join(f"word{number}" for number in range(4000))
_TEMPLATE_READ_FIRST: Final = "chat_template.jinja"
_REASONING_TRIPS: Final = {
    "reasoning blocks": "<think>\nReasons.\n</think>\n\nThe answer",
    "short reasoning blocks": "<think>Reasons.</think>The answer",
}
_GENERATION_CONFIG: Final = "generation_config.json"
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"

Message = dict[str, str]


def check_chat_template(
    tokenizer: PreTrainedTokenizerBase, folder: Path, needs: ModelNeeds
) -> list[Check]:
    """Check the chat template of a folder with its tokenizer."""
    templates = read_chat_templates(folder)
    found = _check_choice(tokenizer, folder, templates)
    if found.level is Level.RED:
        return [found]
    chat = _Chat(tokenizer, folder, needs, _find_default(templates))
    turns = _check_turns(chat)
    if any(check.level is Level.RED for check in turns):
        return [found, *turns]
    return [
        found,
        *turns,
        *_check_prompt_texts(chat),
        *_note_unused_template(chat),
        _check_stability(chat),
        _check_date(chat),
        _check_inserted_text(chat),
        _check_end_token(chat),
        _check_start_token(chat),
        _check_control_tokens(chat),
        _check_round_trip(chat),
        *_check_reasoning(chat),
    ]


@dataclass
class _Chat:
    """A template that renders the simplest conversation, with its observed properties."""

    tokenizer: PreTrainedTokenizerBase
    folder: Path
    needs: ModelNeeds
    template: ChatTemplateFile

    def render(
        self,
        *turns: Message,
        prompts: bool = False,
        options: ChatOptions = ChatOptions(_DATES[0]),  # noqa: B008 frozen
    ) -> str:
        """Render a conversation.

        Args:
            turns: the turns of the conversation.
            prompts: whether to append the generation prompt for the assistant.
            options: variables of the template.
        """
        return render_chat(self.tokenizer, turns, add_generation_prompt=prompts, options=options)

    def encode(self, text: str) -> list[int]:
        """Encode a rendered text."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def name(self, token: int) -> str:
        """Format a token for messages."""
        return repr(self.tokenizer.convert_ids_to_tokens(token))

    def check(
        self, name: str, title: str, level: Level, message: str, remedy: str = "", file: str = ""
    ) -> Check:
        """Build a result; by default the file at fault is the template's file."""
        place = file or ("" if level is Level.GREEN else self.template.file)
        return Check(f"chat_template.{name}", title, level, message, remedy, place)

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that stop generation."""
        eos = self.tokenizer.eos_token_id
        return find_end_token_ids(self.folder, tokenizer_eos=eos if isinstance(eos, int) else None)

    @cached_property
    def markers(self) -> dict[int, Any]:
        """Added tokens, whether or not they are marked as control tokens."""
        return dict(self.tokenizer.added_tokens_decoder)

    @cached_property
    def marks(self) -> list[str]:
        """Reasoning marks that the template contains."""
        return find_marks(self.template.text)


def _make_user_message(text: str = _USER) -> Message:
    return {"role": "user", "content": text}


def _make_reply(text: str = _REPLY) -> Message:
    return {"role": "assistant", "content": text}


def _check_choice(
    tokenizer: PreTrainedTokenizerBase, folder: Path, templates: Sequence[ChatTemplateFile]
) -> Check:
    """Check which template renders conversations."""

    def fail(message: str, remedy: str, file: str) -> Check:
        return Check("chat_template", "Chat template", Level.RED, message, remedy, file)

    names = [template.name for template in templates]
    if not names:
        if (folder / "chat_template.json").is_file():
            return fail(
                "tokenizers do not read this file, so the model has no chat template",
                "save its text as chat_template.jinja",
                "chat_template.json",
            )
        return fail(
            "the tokenizer has no chat template",
            "use an instruction-tuned model, or add its template as chat_template.jinja",
            _TOKENIZER_CONFIG,
        )
    if DEFAULT_TEMPLATE not in names:
        return fail(
            f"the model has {len(names)} chat templates ({', '.join(names)}) but no default",
            "save the template to use as chat_template.jinja",
            templates[0].file,
        )
    chosen = _find_default(templates)
    try:
        render_chat(tokenizer, [_make_user_message()], add_generation_prompt=True)
    except Exception as error:  # noqa: BLE001 - a template is a program and raises what it likes
        return fail(
            f"the chat template cannot render a prompt ({_shorten(error)})",
            "correct the template, or use the model's own template",
            chosen.file,
        )
    if len(names) > 1:
        others = ", ".join(name for name in names if name != DEFAULT_TEMPLATE)
        message = f"the default one is used; other templates of the model: ({others})"
        return Check("chat_template", "Chat template", Level.AMBER, message, "", chosen.file)
    return Check("chat_template", "Chat template", Level.GREEN, f"in {chosen.file}")


def _find_default(templates: Iterable[ChatTemplateFile]) -> ChatTemplateFile:
    return next(template for template in templates if template.name == DEFAULT_TEMPLATE)


def _check_turns(chat: _Chat) -> list[Check]:
    """Check that every turn that the recipe needs is rendered with its text."""
    system: Message = {"role": "system", "content": _SYSTEM}
    own = "use the model's own template"
    wanted: list[tuple[str, list[Message], str, str]] = [
        ("prompts", [_make_user_message()], _USER, own),
        ("completions", [_make_user_message(), _make_reply()], _REPLY, own),
    ]
    if chat.needs.system_prompt is not None:
        remedy = "remove actor.system_prompt, or use a model that accepts a system message"
        wanted.append(("system messages", [system, _make_user_message()], _SYSTEM, remedy))
    if chat.needs.multi_turn:
        several = [
            _make_user_message("first"),
            _make_reply("second"),
            _make_user_message(),
            _make_reply(),
        ]
        wanted.append(
            ("conversations of several turns", several, _USER, "use prompts with a single turn")
        )
    found = []
    faults: dict[tuple[str, str], list[str]] = {}
    for what, turns, text, remedy in wanted:
        try:
            rendered = chat.render(*turns)
        except Exception as error:  # noqa: BLE001 - see above
            message = f"the chat template refuses {what} ({_shorten(error)})"
            found.append(chat.check("turns", "Turns", Level.RED, message, remedy))
            continue
        if text not in rendered:
            verb = "changes" if text.lower() in rendered.lower() else "leaves out"
            faults.setdefault((verb, remedy), []).append(what)
    for (verb, remedy), texts in faults.items():
        message = f"the chat template {verb} the text of {_join(texts)}"
        found.append(chat.check("turns", "Turns", Level.RED, message, remedy))
    if found:
        return found
    names = _join([what for what, *_ in wanted])
    return [chat.check("turns", "Turns", Level.GREEN, f"renders {names}")]


def _check_prompt_texts(chat: _Chat) -> list[Check]:
    """Check that prompts are rendered verbatim, except for surrounding whitespace."""
    texts = _ROUND_TRIPS | {"long texts": _LONG_TEXT}
    changed = [
        what
        for what, text in texts.items()
        if text.strip() not in chat.render(_make_user_message(text or _USER), prompts=True)
    ]
    if not changed:
        return []
    message = f"the chat template changes {_join(changed)} of a prompt"
    remedy = "correct the template, or use the model's own template"
    return [chat.check("prompts", "Prompt texts", Level.RED, message, remedy)]


def _note_unused_template(chat: _Chat) -> list[Check]:
    """Report a second default template in a file that transformers does not use."""
    if chat.template.file != _TEMPLATE_READ_FIRST:
        return []
    unused = find_unused_template(chat.folder)
    if unused is None or unused.strip() == chat.template.text.strip():
        return []
    message = f"contains a different chat template than {_TEMPLATE_READ_FIRST}, which is used"
    remedy = "compare the templates, and remove chat_template from this file"
    return [chat.check("unused", "Chat template", Level.AMBER, message, remedy, _TOKENIZER_CONFIG)]


def _check_stability(chat: _Chat) -> Check:
    """Check that rendering a conversation is deterministic."""
    if len({chat.render(_make_user_message(), prompts=True) for _ in range(8)}) > 1:
        return chat.check(
            "stable",
            "Determinism",
            Level.RED,
            "the chat template renders the same conversation differently each time",
            "remove the random parts",
        )
    return chat.check("stable", "Determinism", Level.GREEN, "the same text each time")


def _check_date(chat: _Chat) -> Check:
    """Check whether prompts depend on the date."""
    texts = {
        chat.render(_make_user_message(), prompts=True, options=ChatOptions(day)) for day in _DATES
    }
    if len(texts) == 1:
        return chat.check("date", "Date", Level.GREEN, "prompts do not depend on the date")
    if chat.needs.renders_prompts:
        message = (
            "the chat template writes the date into prompts; an experiment uses the date of "
            "its first day in all of them"
        )
        return chat.check("date", "Date", Level.AMBER, message)
    message = (
        "the chat template writes the date into prompts, and the server of engine.endpoint "
        "writes the current one, so prompts change from day to day"
    )
    remedy = "use a template without a date on the server"
    return chat.check("date", "Date", Level.AMBER, message, remedy)


def _check_inserted_text(chat: _Chat) -> Check:
    """Check whether the template inserts text before a prompt, such as a system turn."""
    title = "System turn"
    head = chat.render(_make_user_message(), prompts=True).partition(_USER)[0]
    for token in chat.markers.values():
        head = head.replace(token.content, " ")
    words = head.split()
    if len(words) <= _MAX_HEAD_WORDS:
        return chat.check("system", title, Level.GREEN, "nothing is inserted before a prompt")
    excerpt = " ".join(words)[:_EXCERPT_CHARS]
    given = chat.needs.system_prompt
    if given is not None and not _is_kept_beside_system(chat, words):
        message = "actor.system_prompt replaces a text that the template inserts"
        return chat.check("system", title, Level.GREEN, message)
    message = f"the chat template inserts text before every prompt ({excerpt!r})"
    remedy = "" if given is not None else "set actor.system_prompt to use another text"
    return chat.check("system", title, Level.AMBER, message, remedy)


def _is_kept_beside_system(chat: _Chat, words: Sequence[str]) -> bool:
    """Whether the inserted text is also added to a system message."""
    system: Message = {"role": "system", "content": _SYSTEM}
    with_system = chat.render(system, _make_user_message(), prompts=True).split()
    return " ".join(words[1:-1]) in " ".join(with_system)


def _check_end_token(chat: _Chat) -> Check:
    """Check that the token after a completion stops generation."""
    title, ends = "End token", chat.end_ids
    known = ", ".join(map(chat.name, ends)) or "none"
    if not ends:
        return chat.check(
            "end",
            title,
            Level.RED,
            "no end token is defined, so completions run to their limit",
            'set "eos_token_id" to the token that ends a turn',
            _GENERATION_CONFIG,
        )
    ending = _find_end_after_reply(chat)
    if ending is not None:
        return _check_end_is_special(chat, ending)
    if (spelled := _find_unknown_marker(chat)) is not None:
        return chat.check(
            "end",
            title,
            Level.RED,
            f"the chat template ends a turn with {spelled!r}, which is not a token of the "
            f"tokenizer, so that models do not learn to stop (end tokens: {known})",
            "use the chat template and the tokenizer of the same model",
        )
    written = _find_marker_after_reply(chat, [_make_user_message(), _make_reply()])
    if written is not None:
        return chat.check(
            "end",
            title,
            Level.RED,
            f"the chat template ends a turn with {chat.name(written)}, which does not stop "
            f"generation (end tokens: {known}), so models continue with invented turns",
            f'add its id {written} to "eos_token_id"',
            _GENERATION_CONFIG,
        )
    following = _find_marker_after_reply(
        chat, [_make_user_message(), _make_reply(), _make_user_message()]
    )
    level = Level.AMBER if chat.needs.stores_tokens else Level.RED
    consequence = (
        "; training keeps the sampled end token"
        if chat.needs.stores_tokens
        else ", so training would not teach the model to stop"
    )
    if following is not None and following not in ends:
        message = (
            f"the chat template writes no end token after a completion, and the next turn "
            f"starts with {chat.name(following)}, which does not stop generation (end tokens: "
            f"{known})"
        )
        remedy = f'add its id {following} to "eos_token_id"'
        return chat.check("end", title, Level.RED, message, remedy, _GENERATION_CONFIG)
    message = f"the chat template writes no end token after a completion{consequence}"
    return chat.check("end", title, level, message, "write it in the template")


def _check_end_is_special(chat: _Chat, end: int) -> Check:
    if end not in set(chat.tokenizer.all_special_ids) and not _is_special(chat, end):
        return chat.check(
            "end",
            "End token",
            Level.RED,
            f"the end token {chat.name(end)} is not declared special, so its text would stay "
            f"in every completion",
            'set "special" to true for it in tokenizer.json',
            "tokenizer.json",
        )
    message = f"{chat.name(end)} ends a turn and stops generation"
    return chat.check("end", "End token", Level.GREEN, message)


def _is_special(chat: _Chat, token: int) -> bool:
    return token in chat.markers and bool(chat.markers[token].special)


def _find_end_after_reply(chat: _Chat) -> int | None:
    """Find the end token that a template writes after a completion, past other markers."""
    tail = chat.render(_make_user_message(), _make_reply()).partition(_REPLY)[2]
    for token in chat.encode(tail):
        if token in chat.end_ids:
            return token
        if token not in chat.markers and str(chat.tokenizer.decode([token])).strip():
            return None
    return None


def _find_unknown_marker(chat: _Chat) -> str | None:
    """Find text after a completion that looks like a control token but is not one."""
    tail = chat.render(_make_user_message(), _make_reply()).partition(_REPLY)[2]
    found = _MARKER.match(tail.lstrip())
    if found is None or found[0] in {token.content for token in chat.markers.values()}:
        return None
    known = chat.tokenizer.convert_tokens_to_ids(found[0])
    return found[0] if known in (None, chat.tokenizer.unk_token_id) else None


def _find_marker_after_reply(chat: _Chat, turns: list[Message]) -> int | None:
    """Find the first end token or added token after the text of a completion."""
    try:
        tail = chat.render(*turns).partition(_REPLY)[2]
    except Exception:  # noqa: BLE001 - a second prompt may be refused
        return None
    candidates = {*chat.markers, *chat.end_ids}
    return next((token for token in chat.encode(tail) if token in candidates), None)


def _check_start_token(chat: _Chat) -> Check:
    """Check that a prompt starts with one start token if the tokenizer has one."""
    title, bos = "Start token", chat.tokenizer.bos_token_id
    ids = chat.encode(chat.render(_make_user_message(), prompts=True))
    leading = next((at for at, token in enumerate(ids) if token != bos), len(ids))
    if bos is None or not isinstance(bos, int):
        return chat.check("start", title, Level.GREEN, "the tokenizer has no start token")
    if leading > 1:
        message = f"the chat template writes the start token {chat.name(bos)} {leading} times"
        return chat.check("start", title, Level.RED, message, "write it once in the template")
    adds = list(chat.tokenizer("a", verbose=False)["input_ids"])[:1] == [bos]
    if leading == 1:
        message = f"{chat.name(bos)} once, from the template; the tokenizer adds none to prompts"
        return chat.check("start", title, Level.GREEN, message)
    if adds:
        message = (
            f"prompts begin without {chat.name(bos)}: the tokenizer adds it to plain texts, "
            f"but the chat template does not write it"
        )
        remedy = "write {{ bos_token }} at the start of the template if the model needs it"
        return chat.check("start", title, Level.AMBER, message, remedy)
    return chat.check("start", title, Level.GREEN, "prompts have no start token")


def _check_control_tokens(chat: _Chat) -> Check:
    """Check that the text of a control token in a prompt does not act as a control token."""
    title = "Control tokens in texts"
    around = [
        *chat.render(_make_user_message(), prompts=True).split(_USER),
        *chat.render(_make_user_message(), _make_reply()).split(_REPLY),
    ]
    used = {token for piece in around for token in chat.encode(piece) if token in chat.markers}
    plain = sorted(
        chat.markers[token].content
        for token in used
        if not chat.markers[token].special and chat.markers[token].content not in chat.marks
    )
    if plain:
        message = (
            f"{', '.join(map(repr, plain))} mark turns but are not declared special, so a "
            f"prompt with this text could end its turn"
        )
        remedy = 'set "special" to true for them in tokenizer.json'
        return chat.check("control", title, Level.AMBER, message, remedy, "tokenizer.json")
    special = {token for token, known in chat.markers.items() if known.special}
    texts = [chat.markers[token].content for token in sorted(used & special)]
    opening = chat.encode(render_generation_prompt(chat.tokenizer, ChatOptions(_DATES[0])))
    if not special & set(opening):
        message = "turns are marked by ordinary text, so a prompt could contain a fake turn"
        return chat.check("control", title, Level.AMBER, message)
    spelled = chat.tokenizer(
        texts, add_special_tokens=False, split_special_tokens=True, verbose=False
    )["input_ids"]
    if any(special & set(ids) for ids in spelled):
        message = "the tokenizer cannot encode control tokens as text: prompts lose these words"
        return chat.check("control", title, Level.AMBER, message)
    return chat.check("control", title, Level.GREEN, "encoded as ordinary text in prompts")


def _check_round_trip(chat: _Chat) -> Check:
    """Check whether a finished turn equals the generation prompt plus the sampled text."""
    title = "Round trip"
    texts = _ROUND_TRIPS | _REASONING_TRIPS
    added = _find_added_words(chat) or _find_next_turn(chat)
    changed = [what for what, text in texts.items() if added or not _keeps(chat, text)]
    if not changed:
        message = f"{len(texts)} kinds of text are rendered exactly as sampled"
        return chat.check("round_trip", title, Level.GREEN, message)
    changes = _describe_changes(chat, changed)
    if chat.needs.stores_tokens:
        message = f"{changes}; training uses the sampled token ids, not the rendered turn"
        remedy = "correct the template if it should not do this"
        return chat.check("round_trip", title, Level.AMBER, message, remedy)
    message = f"{changes}, and training uses the rendered turn, because no token ids are stored"
    remedy = (
        "use an engine that returns token ids (transformers, vllm, or an endpoint with "
        "return_token_ids), or another template"
    )
    level = Level.RED if _is_lossy(chat) else Level.AMBER
    return chat.check("round_trip", title, level, message, remedy)


def _describe_changes(chat: _Chat, changed: Sequence[str]) -> str:
    """Describe how a template changes finished turns, as a clause."""
    context = chat.render(_make_user_message(), prompts=True)
    before, _, _ = chat.render(_make_user_message(), _make_reply()).partition(_REPLY)
    opened = render_generation_prompt(chat.tokenizer, ChatOptions(_DATES[0]))
    if not before.startswith(context):
        return f"a finished turn does not start with the generation prompt ({opened!r:.80})"
    added = before.removeprefix(context)
    if added.strip() and not opened:
        return (
            "the chat template writes no generation prompt, while a finished turn starts with "
            f"{added!r:.80}"
        )
    if following := _find_next_turn(chat):
        return f"the chat template writes {following!r:.80} after a finished turn"
    if _ROUND_TRIPS.keys() <= set(changed):
        return "the chat template adds to every completion, or changes it"
    return f"the chat template changes {_join(changed)} of a completion"


def _find_next_turn(chat: _Chat) -> str:
    """Find what the template writes after a finished turn, apart from end tokens."""
    tail = chat.render(_make_user_message(), _make_reply()).partition(_REPLY)[2]
    end = _find_marker_after_reply(chat, [_make_user_message(), _make_reply()])
    if end is None:
        return ""
    behind = tail.partition(str(chat.tokenizer.convert_ids_to_tokens(end)))[2]
    for token in {*chat.end_ids, chat.tokenizer.eos_token_id} - {None}:
        behind = behind.replace(str(chat.tokenizer.convert_ids_to_tokens(token)), "")
    return behind.strip()


def _is_lossy(chat: _Chat) -> bool:
    """Whether rendered rows lose text, or do not start with the prompt and are refused."""
    strips = chat.needs.actor_reasoning == "strip"
    begins = chat.render(_make_user_message(), _make_reply()).startswith(
        chat.render(_make_user_message(), prompts=True)
    )
    lost = [
        text
        for text in _ROUND_TRIPS.values()
        if text.strip() not in chat.render(_make_user_message(), _make_reply(text or _REPLY))
    ]
    return bool(lost) or not (begins or strips)


def _keeps(chat: _Chat, text: str) -> bool:
    """Whether a turn is the generation prompt, this text and the usual end."""
    context = chat.render(_make_user_message(), prompts=True)
    try:
        rendered = chat.render(_make_user_message(), _make_reply(text))
    except Exception:  # noqa: BLE001 - a template may refuse an empty turn
        return False
    return (
        rendered
        == context + text + chat.render(_make_user_message(), _make_reply()).partition(_REPLY)[2]
    )


def _find_added_words(chat: _Chat) -> str:
    """Find text that the template adds between a completion and its end token."""
    tail = chat.render(_make_user_message(), _make_reply()).partition(_REPLY)[2]
    end = _find_marker_after_reply(chat, [_make_user_message(), _make_reply()])
    if end is None:
        return ""
    return tail.partition(str(chat.tokenizer.convert_ids_to_tokens(end)))[0].strip()


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _check_reasoning(chat: _Chat) -> list[Check]:
    """Check that the recipe's reasoning policies can be applied."""
    options = ChatOptions(_DATES[0])
    opened = find_opened_reasoning(chat.tokenizer, options)
    policies = {"actor.reasoning": chat.needs.actor_reasoning}
    if chat.needs.judges:
        policies["judge.reasoning"] = chat.needs.judge_reasoning
    if not chat.marks and not opened:
        return [_check_policy_without_marks(chat, policies)]
    switched = render_generation_prompt(
        chat.tokenizer, ChatOptions(_DATES[0], allow_reasoning=False)
    ) != render_generation_prompt(chat.tokenizer, options) or _is_switched_in_prompt(chat)
    return [
        _check_policy(chat, key, policy, has_switch=switched, opened=opened)
        for key, policy in policies.items()
    ]


def _is_switched_in_prompt(chat: _Chat) -> bool:
    """Whether the switch changes the conversation before the generation prompt."""
    off = ChatOptions(_DATES[0], allow_reasoning=False)
    return chat.render(_make_user_message(), prompts=True) != chat.render(
        _make_user_message(), prompts=True, options=off
    )


def _check_policy_without_marks(chat: _Chat, policies: Mapping[str, str]) -> Check:
    asked = [f"{key}: {policy}" for key, policy in policies.items() if policy != "keep"]
    if asked:
        message = f"the chat template has no reasoning block, and the recipe sets {_join(asked)}"
        remedy = "remove the setting, unless the model is known to write reasoning"
        return chat.check("reasoning", "Reasoning", Level.AMBER, message, remedy)
    message = "the chat template has no reasoning block"
    return chat.check("reasoning", "Reasoning", Level.GREEN, message)


def _check_policy(chat: _Chat, key: str, policy: str, *, has_switch: bool, opened: str) -> Check:
    title = "Reasoning"
    if policy == "keep":
        message = f"the model may write reasoning blocks, and {key}: keep judges and trains on them"
        choices = "strip or forbid" if has_switch else "strip"
        remedy = f"set {key} to {choices} if only answers should count"
        return chat.check("reasoning", title, Level.AMBER, message, remedy)
    if policy == "forbid" and not has_switch:
        message = f"{key}: forbid needs a chat template that reads enable_thinking"
        return chat.check("reasoning", title, Level.RED, message, f"set {key} to strip or keep")
    lost = [mark for mark in chat.marks if _is_lost(chat, mark)]
    if policy == "strip" and lost:
        message = (
            f"the marks of reasoning ({', '.join(map(repr, lost))}) are control tokens that "
            f"texts do not contain, so {key}: strip cannot find the reasoning"
        )
        return chat.check("reasoning", title, Level.RED, message, f"set {key} to keep or forbid")
    if policy == "strip" and opened and not chat.needs.renders_prompts:
        message = (
            "the generation prompt opens a reasoning block, which is missing in a server's "
            f"texts: unfinished reasoning would count as an answer under {key}: strip"
        )
        return chat.check("reasoning", title, Level.AMBER, message, "raise max_new_tokens")
    done = "is removed" if policy == "strip" else "is turned off by the template"
    return chat.check("reasoning", title, Level.GREEN, f"{key}: {policy}; reasoning {done}")


def _is_lost(chat: _Chat, mark: str) -> bool:
    """Whether a mark is missing from the decoded text of its own tokens."""
    ids = chat.encode(mark)
    return mark not in str(chat.tokenizer.decode(ids, skip_special_tokens=True))


def _shorten(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(".:")[:200]
