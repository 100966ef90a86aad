"""A package that is not part of this project and declares a task of its own.

It is written into a folder with its metadata, as an installer would, and the folder is put on the
import path. It knows nothing of the project but the public parts of the registry.
"""

import json
import shutil
from pathlib import Path

from meta_reward_core.recipes.prompt_templates import load_template
from meta_reward_core.tasks.toy import task as toy
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model

TASK_NAME = "spelling"

_MODULE = '''\
"""Spell words backwards: prompts, a base model and the ground truth of it."""

import os
from pathlib import Path

from meta_reward_core.engines.base import SamplingParams
from meta_reward_core.evaluation.scorecard import Measurement
from meta_reward_core.tasks.protocol import StaticModel, StaticPrompts, TaskDefinition

WORDS = [f"{first}{vowel}{last}" for first in "bcdfglmn" for vowel in "aei" for last in "dnrt"]
HELD_OUT = WORDS[::8]


def spell_backwards(word):
    """The ground truth; a switch of the tests lets it lie."""
    return word if "SPELLING_LIES" in os.environ else word[::-1]


class SpellingEvaluator:
    """Share of held-out words that a model spells backwards."""

    def measure(self, request):
        prompts = [f"Spell backwards: {word}" for word in HELD_OUT]
        replies = request.engine.sample(
            [[{"role": "user", "content": prompt}] for prompt in prompts],
            1,
            sampling=SamplingParams(0.0, 1.0, request.recipe.actor.max_new_tokens),
            seed=request.seed,
        )
        right = [
            spell_backwards(word) in drawn[0].text.split() for word, drawn in zip(HELD_OUT, replies)
        ]
        share = sum(right) / len(right)
        yield Measurement(request.model, "actor", "spelled_right", share, len(right), "oracle")


TASK = TaskDefinition(
    name="spelling",
    title="the spelling task",
    version=3,
    prompts=StaticPrompts(
        tuple(f"Spell backwards: {word}" for word in WORDS if word not in HELD_OUT)
    ),
    base_model=StaticModel(Path(__file__).parent / "model"),
    templates={
        "spelling_judge": "Judge how {response} answers {instruction}. End with Score: 0 to 5.",
        "spelling_meta_judge": "Compare {judgment_a} and {judgment_b} about {response} to "
        "{instruction}. End with Winner: Judgement A or Winner: Judgement B.",
    },
    evaluators=(SpellingEvaluator(),),
)
'''

RECIPE = """\
name: spell
task: spelling
iterations: 2
prompts_per_shard: 4
probe: {prompts: 0}
sample: {prompts: 8}
actor: {samples: 4}
judge: {samples: 5, template: spelling_judge}
meta_judge: {template: spelling_meta_judge, max_chosen_judgment_chars: null}
engine: {kind: scripted}
"""


def write_outside_task(folder: Path, module: str = _MODULE, *, name: str = TASK_NAME) -> Path:
    """Write the package and its metadata; the model's folder holds a stub."""
    package = folder / f"outside_{name}"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(module)
    model = package / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights of M0")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    metadata = folder / f"outside_{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: outside-{name}\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(
        f"[meta_reward.tasks]\n{name} = outside_{name}:TASK\n"
    )
    return folder


_TRAINED_MODULE = '''\
"""Translate phrases: a model that can judge, with the templates that it was trained on."""

import json
from pathlib import Path

from meta_reward_core.engines.base import SamplingParams
from meta_reward_core.evaluation.scorecard import Measurement
from meta_reward_core.tasks.protocol import StaticModel, StaticPrompts, TaskDefinition

HERE = Path(__file__).parent
TRANSLATIONS = json.loads((HERE / "translations.json").read_text())


class PhrasebookEvaluator:
    """Share of the words of held-out phrases that a model translates."""

    def measure(self, request):
        drawn = request.engine.sample(
            [[{"role": "user", "content": prompt}] for prompt in TRANSLATIONS],
            1,
            sampling=SamplingParams(0.0, 1.0, request.recipe.actor.max_new_tokens),
            seed=request.seed,
        )
        right = [
            expected == word
            for words, replies in zip(TRANSLATIONS.values(), drawn)
            for expected, word in zip(words.split(), replies[0].text.split())
        ]
        share = sum(right) / len(right)
        yield Measurement(request.model, "actor", "words_right", share, len(right), "oracle")


TASK = TaskDefinition(
    name="phrasebook",
    title="the phrasebook",
    prompts=StaticPrompts(tuple((HERE / "prompts.txt").read_text().splitlines())),
    base_model=StaticModel(HERE / "model"),
    templates={
        name: (HERE / f"{name}.txt").read_text()
        for name in ("phrasebook_judge", "phrasebook_meta_judge")
    },
    evaluators=(PhrasebookEvaluator(),),
)
'''

TRAINED_RECIPE = """\
extends: smoke
name: phrases
task: phrasebook
prompts_per_shard: 6
probe: {prompts: 0, check_shards: false}
sample: {prompts: 12}
actor: {samples: 5}
judge: {samples: 5, template: phrasebook_judge}
meta_judge: {max_judgments: 3, template: phrasebook_meta_judge}
"""
PHRASES = 90


def write_trained_task(folder: Path) -> Path:
    """Write a package whose model can respond, judge and be trained.

    Its files are all it takes from the toy task, for which the model was trained.
    """
    package = write_outside_task(folder, _TRAINED_MODULE, name="phrasebook") / "outside_phrasebook"
    shutil.copytree(get_shipped_seed_model(), package / "model", dirs_exist_ok=True)
    for role in ("judge", "meta_judge"):
        text = load_template(f"miniature_{role}").text
        (package / f"phrasebook_{role}.txt").write_text(text)
    prompts = toy.sample_pool_prompts(PHRASES, seed=7)
    (package / "prompts.txt").write_text("\n".join(prompts))
    translations = {}
    for prompt in toy.sample_held_out_prompts(20, seed=7):
        language, sources = toy.parse_instruction(prompt) or ("", ())
        words = (toy.translate_word(language, source) for source in sources)
        translations[prompt] = " ".join(words)
    (package / "translations.json").write_text(json.dumps(translations))
    return folder
