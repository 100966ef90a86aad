"""What a chat template does to a text is found before anything is drawn."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig, PreTrainedTokenizerFast

from meta_reward_core.models.check.chat_template import check_chat_template
from meta_reward_core.models.check.needs import ModelNeeds
from meta_reward_core.models.check.result import Check, Level
from tests.core.chat_models import FORMATS, make_chat_tokenizer

GREEN, AMBER, RED = Level.GREEN, Level.AMBER, Level.RED
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Folder:
    """A tokenizer with a template in a folder, without weights."""

    def __init__(self, path: Path, *, chat: str = "qwen2_5", template: str | None = PLAIN) -> None:
        self.path = path
        self.tokenizer: Any = make_chat_tokenizer(chat)
        if template is not None:
            self.tokenizer.chat_template = template
        self.name_end_tokens(self.tokenizer.eos_token_id)

    def name_end_tokens(self, *ids: int) -> None:
        GenerationConfig(eos_token_id=list(ids)).save_pretrained(self.path)

    def check(self, **needs: Any) -> dict[str, Check]:
        """Save, load as engines do, and check; by the last part of the name."""
        self.tokenizer.save_pretrained(self.path)
        loaded = PreTrainedTokenizerFast.from_pretrained(self.path)
        found = check_chat_template(loaded, self.path, ModelNeeds(**needs))
        return {check.name.rpartition(".")[2]: check for check in found}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_template_that_keeps_texts_has_no_findings(folder: Folder) -> None:
    found = folder.check(system_prompt="Be brief.", multi_turn=True)
    assert {name: check.level for name, check in found.items()} == {
        "chat_template": GREEN,
        "turns": GREEN,
        "stable": GREEN,
        "date": GREEN,
        "system": GREEN,
        "end": GREEN,
        "start": GREEN,
        "control": GREEN,
        "round_trip": GREEN,
        "reasoning": GREEN,
    }


@pytest.mark.parametrize("chat", sorted(FORMATS))
def test_public_templates_may_be_used_with_drawn_tokens(chat: str, tmp_path: Path) -> None:
    """None is red where token ids are stored; what is amber is told of each below."""
    found = Folder(tmp_path, chat=chat, template=None).check()
    assert not [check for check in found.values() if check.level is RED]
    assert {name for name, check in found.items() if check.level is AMBER} == {
        "qwen3": {"round_trip", "reasoning"},
        "llama3_1": {"system", "round_trip"},
        "gemma3": {"round_trip"},
        "gemma": {"round_trip"},
        "deepseek_r1_distill": {"round_trip", "reasoning"},
        "phi3": set(),
        "qwen2_5": {"system"},
        "qwen3_5_think": {"round_trip", "reasoning"},
        "glm4moe": {"end", "round_trip", "reasoning"},
        "gptoss": {"system", "date", "round_trip", "reasoning"},
    }[chat]


@pytest.mark.parametrize(
    ("template", "changed", "unstored"),
    [
        ("m['content'] | trim", "leading blank lines, leading spaces, trailing blank lines", AMBER),
        ("m['content'].split('\n') | last", "several lines", RED),
        ("m['content'] | replace('**', '')", "changes markdown of a completion", RED),
        ("m['content'] | e", "changes markdown, code", RED),
        ("m['content'] or 'nothing'", "changes an empty text of a completion", AMBER),
        ("m['content'] | lower", "changes plain text, several lines", RED),
        ("m['content'] | truncate(20, True, '')", "several lines", RED),
        ("m['content'] | replace('</think>', '')", "template changes reasoning blocks", AMBER),
        ("m['content'] ~ ' Goodbye.'", "adds to every completion, or changes it", AMBER),
    ],
)
def test_a_rewritten_completion_is_told_with_what_training_uses(
    folder: Folder, template: str, changed: str, unstored: Level
) -> None:
    """Without stored token ids, words must not be lost; blanks at the ends may be."""
    folder.tokenizer.chat_template = PLAIN.replace(
        "{{ m['content'] }}",
        "{{ (" + template + ") if m['role'] == 'assistant' else m['content'] }}",
    )
    stored = folder.check()["round_trip"]
    assert stored.level is AMBER
    assert changed in stored.message
    assert "training uses the sampled token ids" in stored.message
    assert stored.file == "chat_template.jinja"
    rendered = folder.check(stores_tokens=False)["round_trip"]
    assert rendered.level is unstored
    assert "no token ids are stored" in rendered.message
    assert "return_token_ids" in rendered.remedy


def test_a_generation_prompt_that_a_finished_turn_does_not_hold_is_told(folder: Folder) -> None:
    folder.tokenizer.chat_template = PLAIN.replace("assistant\n{% endif", "assistant\nso\n{% endif")
    found = folder.check()["round_trip"]
    assert found.level is AMBER
    assert "does not start with the generation prompt" in found.message
    assert folder.check(stores_tokens=False)["round_trip"].level is RED
    assert "so" in found.message


def test_an_end_token_that_does_not_stop_generation_is_refused(folder: Folder) -> None:
    end = folder.tokenizer.eos_token_id
    folder.tokenizer.eos_token = "<pad>"
    folder.name_end_tokens(0)
    found = folder.check()["end"]
    assert found.level is RED
    assert "'<|im_end|>'" in found.message
    assert "end tokens: '<pad>'" in found.message
    assert found.remedy == f'add its id {end} to "eos_token_id"'
    assert found.file == "generation_config.json"
    folder.name_end_tokens(0, end)
    assert folder.check()["end"].level is GREEN


def test_other_markers_may_precede_the_end_token(folder: Folder) -> None:
    """As of Cohere's models, whose responses end in a marker of their own and then their turn."""
    folder.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|done|>"]})
    folder.tokenizer.chat_template = PLAIN.replace("<|im_end|>", "<|done|><|im_end|>")
    assert folder.check()["end"].level is GREEN
    folder.tokenizer.chat_template = PLAIN.replace("<|im_end|>", "<|done|> bye <|im_end|>")
    assert folder.check()["end"].level is RED


def test_turns_that_ordinary_text_begins_are_told(folder: Folder) -> None:
    """As of Zephyr's models: only the end of a turn is a control token."""
    folder.tokenizer.chat_template = PLAIN.replace("<|im_start|>", "<|role|>")
    found = folder.check()
    assert found["end"].level is GREEN
    assert found["control"].level is AMBER
    assert "ordinary text" in found["control"].message


def test_a_model_that_names_no_end_token_is_refused(folder: Folder) -> None:
    folder.tokenizer.eos_token = None
    (folder.path / "generation_config.json").write_text("{}")
    found = folder.check()["end"]
    assert (found.level, found.file) == (RED, "generation_config.json")
    assert "no end token is defined" in found.message


def test_a_template_without_an_end_token_trains_on_drawn_ones_alone(folder: Folder) -> None:
    folder.tokenizer.chat_template = PLAIN.replace("<|im_end|>\n", "\n\n").replace(
        "<|im_start|>", "### "
    )
    assert folder.check()["end"].level is AMBER
    assert folder.check(stores_tokens=False)["end"].level is RED
    assert "ordinary text" in folder.check()["control"].message


def test_an_end_token_that_is_not_special_would_stay_in_texts(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.tokenizer.eos_token = "<pad>"
    folder.check()
    file = tmp_path / "tokenizer.json"
    values = json.loads(file.read_text())
    for token in values["added_tokens"]:
        token["special"] = token["content"] == "<pad>"
    file.write_text(json.dumps(values))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for key in ("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"):
        settings.pop(key, None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    end = loaded.convert_tokens_to_ids("<|im_end|>")
    assert isinstance(end, int)
    folder.name_end_tokens(end)
    found = {c.name: c for c in check_chat_template(loaded, tmp_path, ModelNeeds())}
    assert found["chat_template.end"].level is RED
    assert "not declared special" in found["chat_template.end"].message
    assert found["chat_template.control"].level is AMBER
    assert "<|im_start|>" in found["chat_template.control"].message


@pytest.mark.parametrize(
    ("template", "needs", "message"),
    [
        ("gemma", {"system_prompt": "Be brief."}, "refuses system messages (System role"),
        (
            "{% for m in messages if m['role'] != 'system' %}<|im_start|>{{ m['content'] }}"
            "<|im_end|>{% endfor %}",
            {"system_prompt": "Be brief."},
            "leaves out the text of system messages",
        ),
        (
            "{% if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}"
            + PLAIN,
            {"multi_turn": True},
            "refuses conversations of several turns (one turn only)",
        ),
        (
            "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}<|im_end|>"
            "{% endfor %}",
            {},
            "leaves out the text of completions",
        ),
    ],
)
def test_a_turn_that_is_needed_and_not_rendered_is_refused(
    tmp_path: Path, template: str, needs: dict[str, Any], message: str
) -> None:
    public = template in FORMATS
    folder = Folder(
        tmp_path,
        chat=template if public else "qwen2_5",
        template=None if public else template,
    )
    found = folder.check(**needs)["turns"]
    assert found.level is RED
    assert message in found.message
    assert found.remedy
    if needs:
        assert folder.check()["turns"].level is GREEN


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['content']", "cannot render a prompt"),
        ("{{ raise_exception('tools are needed') }}", "tools are needed"),
        ("{{ messages[7]['content'] }}", "cannot render a prompt"),
    ],
)
def test_a_template_that_fails_is_refused(folder: Folder, template: str, message: str) -> None:
    folder.tokenizer.chat_template = template
    found = folder.check()
    assert list(found) == ["chat_template"]
    assert found["chat_template"].level is RED
    assert message in found["chat_template"].message
    assert found["chat_template"].file == "chat_template.jinja"


def test_a_model_without_a_template_is_refused(folder: Folder) -> None:
    folder.tokenizer.chat_template = None
    found = folder.check()["chat_template"]
    assert (found.level, found.message) == (RED, "the tokenizer has no chat template")


def test_a_template_in_a_file_of_processors_is_no_template(folder: Folder) -> None:
    folder.tokenizer.chat_template = None
    (folder.path / "chat_template.json").write_text(json.dumps({"chat_template": PLAIN}))
    found = folder.check()["chat_template"]
    assert (found.level, found.file) == (RED, "chat_template.json")
    assert found.remedy == "save its text as chat_template.jinja"


def test_several_templates_need_a_default_one(folder: Folder) -> None:
    folder.tokenizer.chat_template = {"rag": PLAIN, "tool_use": PLAIN}
    found = folder.check()["chat_template"]
    assert found.level is RED
    assert "2 chat templates" in found.message
    folder.tokenizer.chat_template = {"default": PLAIN, "tool_use": PLAIN}
    found = folder.check()["chat_template"]
    assert found.level is AMBER
    assert "tool_use" in found.message


def test_several_templates_in_the_older_form_are_found(folder: Folder) -> None:
    """A list of names and templates in tokenizer_config.json."""
    folder.tokenizer.chat_template = None
    folder.tokenizer.save_pretrained(folder.path)
    file = folder.path / "tokenizer_config.json"
    listed = [{"name": name, "template": PLAIN} for name in ("rag", "tool_use")]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": listed}))
    loaded = PreTrainedTokenizerFast.from_pretrained(folder.path)
    [found] = check_chat_template(loaded, folder.path, ModelNeeds())
    assert (found.level, found.file) == (RED, "tokenizer_config.json")
    assert "rag, tool_use" in found.message


def test_a_date_in_prompts_is_told_and_a_server_writes_its_own(folder: Folder) -> None:
    folder.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + PLAIN
    assert "the date of its first day" in folder.check()["date"].message
    assert "from day to day" in folder.check(renders_prompts=False)["date"].message
    assert folder.check()["date"].level is AMBER


def test_chance_in_a_template_is_refused(folder: Folder) -> None:
    folder.tokenizer.chat_template = "{{ range(1000) | random }}" + PLAIN
    assert folder.check()["stable"].level is RED


def test_a_system_turn_of_the_templates_own_is_told(tmp_path: Path) -> None:
    folder = Folder(tmp_path, chat="qwen2_5", template=None)
    found = folder.check()["system"]
    assert found.level is AMBER
    assert "You are Qwen" in found.message
    assert folder.check(system_prompt="Be brief.")["system"].level is GREEN


def test_text_that_stands_beside_a_system_prompt_is_told(tmp_path: Path) -> None:
    found = Folder(tmp_path, chat="llama3_1", template=None).check(system_prompt="Be brief.")
    assert found["system"].level is AMBER
    assert "Cutting Knowledge Date" in found["system"].message


def test_start_tokens_are_written_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path, chat="gemma3", template=None)
    assert folder.check()["start"].level is GREEN
    template = folder.tokenizer.chat_template
    folder.tokenizer.chat_template = "{{ bos_token }}" + template
    found = folder.check()["start"]
    assert found.level is RED
    assert "2 times" in found.message


@pytest.mark.parametrize(
    ("chat", "policy", "level", "message"),
    [
        ("qwen3", "keep", AMBER, "strip or forbid"),
        ("qwen3", "strip", GREEN, "is removed"),
        ("qwen3", "forbid", GREEN, "turned off"),
        ("glm4moe", "forbid", GREEN, "turned off"),
        ("deepseek_r1_distill", "keep", AMBER, "set actor.reasoning to strip"),
        ("deepseek_r1_distill", "strip", GREEN, "is removed"),
        ("deepseek_r1_distill", "forbid", RED, "reads enable_thinking"),
        ("qwen2_5", "strip", AMBER, "no reasoning block"),
        ("qwen2_5", "keep", GREEN, "no reasoning block"),
    ],
)
def test_a_reasoning_policy_that_the_template_cannot_follow_is_told(
    tmp_path: Path, chat: str, policy: str, level: Level, message: str
) -> None:
    found = Folder(tmp_path, chat=chat, template=None).check(
        actor_reasoning=policy, judge_reasoning="keep", judges=False
    )["reasoning"]
    assert found.level is level
    assert message in f"{found.message} {found.remedy}"


def test_marks_of_reasoning_that_texts_lose_cannot_be_stripped(tmp_path: Path) -> None:
    folder = Folder(tmp_path, chat="qwen3", template=None)
    folder.tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    found = folder.check(actor_reasoning="strip", judges=False)["reasoning"]
    assert found.level is RED
    assert "control tokens" in found.message
