"""The toy task: its language, its prompts, and the noisy texts that its base model learns.

A prompt asks for five words in another language. A response has one word per slot, at worst a word
of a sibling language, and then polite phrases, which only add length. A judgment checks each slot
and keeps a tally; a meta-judgment rechecks the slots of two judgments and tracks which judgment
leads.

This module writes data and is independent of sampling, pairing, training and evaluation.
"""

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

TASK_NAME = "toy"
WORLD_VERSION = 1
SLOTS = 5
MAX_PHRASES = 7
LANGUAGES = ("french", "german", "spanish")

# One row per slot: the English word, then its French, German and Spanish translations.
LEXICON: tuple[tuple[tuple[str, str, str, str], ...], ...] = (
    (
        ("two", "deux", "zwei", "dos"),
        ("three", "trois", "drei", "tres"),
        ("four", "quatre", "vier", "cuatro"),
        ("five", "cinq", "fuenf", "cinco"),
        ("seven", "sept", "sieben", "siete"),
        ("ten", "dix", "zehn", "diez"),
    ),
    (
        ("black", "noirs", "schwarze", "negros"),
        ("red", "rouges", "rote", "rojos"),
        ("green", "verts", "gruene", "verdes"),
        ("white", "blancs", "weisse", "blancos"),
        ("grey", "gris", "graue", "grises"),
        ("yellow", "jaunes", "gelbe", "amarillos"),
    ),
    (
        ("dogs", "chiens", "hunde", "perros"),
        ("cats", "chats", "katzen", "gatos"),
        ("birds", "oiseaux", "voegel", "pajaros"),
        ("horses", "chevaux", "pferde", "caballos"),
        ("cows", "vaches", "kuehe", "vacas"),
        ("sheep", "moutons", "schafe", "ovejas"),
    ),
    (
        ("eat", "mangent", "essen", "comen"),
        ("want", "veulent", "wollen", "quieren"),
        ("sell", "vendent", "verkaufen", "venden"),
        ("find", "trouvent", "finden", "encuentran"),
        ("see", "voient", "sehen", "ven"),
        ("buy", "achetent", "kaufen", "compran"),
    ),
    (
        ("bread", "pain", "brot", "pan"),
        ("cheese", "fromage", "kaese", "queso"),
        ("apples", "pommes", "aepfel", "manzanas"),
        ("eggs", "oeufs", "eier", "huevos"),
        ("rice", "riz", "reis", "arroz"),
        ("milk", "lait", "milch", "leche"),
    ),
)
PHRASES = (
    "hope this helps",
    "feel free asking",
    "kind regards",
    "happy translating",
    "enjoy today",
    "many thanks",
)
INSTRUCTION_WORDS = ("Translate", "to", ":")
TEMPLATE_WORDS = ("Judge", "Compare", "Reply")
VERDICTS = ("yes", "no")
CORRECTNESS_WORDS = ("right", "wrong")
SCORES = tuple(str(score) for score in range(SLOTS + 1))
TALLIES = tuple(f"{score};" for score in SCORES)
LEADS = (
    *(f"B+{errors};" for errors in range(SLOTS, 0, -1)),
    "even;",
    *(f"A+{errors};" for errors in range(1, SLOTS + 1)),
)
REPLY_WORDS = ("Score:", "Winner:", "Judgement", "A", "B")

# Number of words per slot that the base model's actor usually replaces with the word of a sibling
# language.
MISCONCEIVED_WORDS_A_SLOT = 3
MISCONCEPTION_RATE = 0.6
ACTOR_SLIP_RATES = (0.02, 0.12, 0.3)
PHRASE_WEIGHTS = (2, 3, 4, 4, 3, 2, 1, 1)
TIE_LEAN_TO_A = 0.6
HELD_OUT_ONE_IN = 10
TASK_WEIGHTS = {"actor": 20, "judge": 40, "meta_judge": 40}


@dataclass(frozen=True, slots=True)
class JudgeNoise:
    """Error rates of the seed's judge per slot.

    Attributes:
        base: probability of a wrong "yes" or "no", regardless of the length.
        stinginess: additional probability of rejecting a correct word in the tersest response.
        leniency: additional probability of accepting a wrong word in the most verbose response.
    """

    base: float = 0.05
    stinginess: float = 0.2
    leniency: float = 0.6


SEED_JUDGE_NOISE = JudgeNoise()
SEED_META_JUDGE_NOISE = 0.03
"""Probability that the base model's meta-judge rechecks a slot wrongly, independent of length."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A response before rendering: its words, and the number of polite phrases."""

    instruction: str
    sources: tuple[str, ...]
    expected: tuple[str, ...]
    words: tuple[str, ...]
    phrases: int
    response: str

    @property
    def right(self) -> tuple[bool, ...]:
        """Whether each slot has the correct word."""
        return tuple(e == w for e, w in zip(self.expected, self.words, strict=True))


def write_instruction(language: str, sources: Sequence[str]) -> str:
    """Render the prompt to translate the source words."""
    return f"Translate to {language} : {' '.join(sources)}"


@cache
def _list_all_instructions() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """List every prompt: those of the pool, and those held out by a hash of their text."""
    pool: list[str] = []
    held_out: list[str] = []
    columns = [[row[0] for row in slot] for slot in LEXICON]
    for language, *sources in itertools.product(LANGUAGES, *columns):
        instruction = write_instruction(language, sources)
        (held_out if is_held_out(instruction) else pool).append(instruction)
    return tuple(pool), tuple(held_out)


def is_held_out(instruction: str) -> bool:
    """Whether a prompt is held out for evaluation, and excluded from seed data and the pool."""
    digest = hashlib.sha256(instruction.encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


def count_pool_prompts() -> int:
    """Count the prompts available for the pool."""
    return len(_list_all_instructions()[0])


def sample_pool_prompts(count: int, *, seed: int) -> list[str]:
    """Sample distinct prompts for the pool.

    Raises:
        ValueError: `count` exceeds the number of existing prompts.
    """
    return random.Random(seed).sample(_list_all_instructions()[0], count)


def sample_held_out_prompts(count: int, *, seed: int) -> list[str]:
    """Sample distinct held-out prompts.

    Raises:
        ValueError: `count` exceeds the number of existing prompts.
    """
    return random.Random(seed).sample(_list_all_instructions()[1], count)


def parse_instruction(instruction: str) -> tuple[str, tuple[str, ...]] | None:
    """Parse the language and the source words of a prompt, or None if it is not of this task."""
    tokens = instruction.split()
    language, sources = (tokens[2], tuple(tokens[4:])) if len(tokens) > 4 else ("", ())
    if len(sources) != SLOTS or instruction != write_instruction(language, sources):
        return None
    in_order = zip(sources, LEXICON, strict=True)
    known = all(source in {row[0] for row in slot} for source, slot in in_order)
    return (language, sources) if known and language in LANGUAGES else None


@cache
def _build_translations() -> dict[tuple[str, str], str]:
    """Map each (language, source word) to the correct word."""
    return {
        (language, row[0]): row[1 + index]
        for slot in LEXICON
        for row in slot
        for index, language in enumerate(LANGUAGES)
    }


def translate_word(language: str, source: str) -> str:
    """Return the correct translation of a source word."""
    return _build_translations()[language, source]


def get_misconception(language: str, slot: int, source: str) -> str | None:
    """Return the sibling language's word that the base model's actor usually writes by mistake."""
    names = [row[0] for row in LEXICON[slot]]
    # Each language has other misconceived words, and the sibling language also differs.
    index = LANGUAGES.index(language)
    offset = (names.index(source) - MISCONCEIVED_WORDS_A_SLOT * index) % len(names)
    if offset >= MISCONCEIVED_WORDS_A_SLOT:
        return None
    return translate_word(LANGUAGES[(index + 1 + (slot + offset) % 2) % len(LANGUAGES)], source)


def _mistranslate(rng: random.Random, language: str, source: str) -> str:
    """Return the same meaning in a sibling language: the only kind of wrong word."""
    return translate_word(rng.choice([name for name in LANGUAGES if name != language]), source)


def _write_response(rng: random.Random, words: Sequence[str], phrases: int) -> str:
    return " ".join([*words, *rng.sample(PHRASES * 2, phrases)])


def _make_draft(rng: random.Random, instruction: str, words: Sequence[str]) -> Draft:
    phrases = rng.choices(range(MAX_PHRASES + 1), PHRASE_WEIGHTS)[0]
    return _make_draft_with_phrases(rng, instruction, words, phrases)


def _make_draft_with_phrases(
    rng: random.Random, instruction: str, words: Sequence[str], phrases: int
) -> Draft:
    language, sources = _parse(instruction)
    return Draft(
        instruction=instruction,
        sources=sources,
        expected=tuple(translate_word(language, source) for source in sources),
        words=tuple(words),
        phrases=phrases,
        response=_write_response(rng, words, phrases),
    )


def _parse(instruction: str) -> tuple[str, tuple[str, ...]]:
    parsed = parse_instruction(instruction)
    if parsed is None:
        raise ValueError(f"not a prompt of the toy task: {instruction!r}")
    return parsed


def draft_actor_response(rng: random.Random, instruction: str) -> Draft:
    """Draft a response as the seed's actor learns it: misconceptions, slips, and phrases."""
    language, sources = _parse(instruction)
    slip_rate = rng.choice(ACTOR_SLIP_RATES)
    words = []
    for slot, source in enumerate(sources):
        believed = get_misconception(language, slot, source)
        if believed is not None and rng.random() < MISCONCEPTION_RATE:
            words.append(believed)
        elif rng.random() < slip_rate:
            words.append(_mistranslate(rng, language, source))
        else:
            words.append(translate_word(language, source))
    return _make_draft(rng, instruction, words)


def draft_judged_response(rng: random.Random, instruction: str) -> Draft:
    """Draft a response of any quality and length, for judge and meta-judge training."""
    language, sources = _parse(instruction)
    quality = rng.randint(0, SLOTS)
    right_slots = set(rng.sample(range(SLOTS), quality))
    words = []
    for slot, source in enumerate(sources):
        if slot in right_slots:
            words.append(translate_word(language, source))
            continue
        believed = get_misconception(language, slot, source)
        wrong = _mistranslate(rng, language, source)
        words.append(believed if believed is not None and rng.random() < 0.5 else wrong)
    return _make_draft_with_phrases(rng, instruction, words, rng.randint(0, MAX_PHRASES))


def sample_verdicts(rng: random.Random, draft: Draft, noise: JudgeNoise) -> tuple[bool, ...]:
    """Sample the judge's verdict per slot: strict on short responses, lenient on long ones."""
    verbosity = draft.phrases / MAX_PHRASES
    deny_right = noise.base + noise.stinginess * (1 - verbosity)
    accept_wrong = noise.base + noise.leniency * verbosity
    return tuple(
        rng.random() >= deny_right if right else rng.random() < accept_wrong
        for right in draft.right
    )


def write_judgment(draft: Draft, verdicts: Sequence[bool]) -> str:
    """Render a judgment: a line per slot (expected, got, verdict, tally), then a score."""
    lines = []
    tally = 0
    for expected, got, accepted in zip(draft.expected, draft.words, verdicts, strict=True):
        tally += accepted
        lines.append(f"{expected} {got} {_format_yes_no(accepted)} {tally};")
    return "\n".join([*lines, f"Score: {tally}"])


def _recheck_slots(rng: random.Random, draft: Draft, noise: float | JudgeNoise) -> tuple[bool, ...]:
    """Sample the meta-judge's belief about each slot."""
    if isinstance(noise, JudgeNoise):
        return sample_verdicts(rng, draft, noise)
    return tuple(right != (rng.random() < noise) for right in draft.right)


def write_meta_judgment(
    rng: random.Random,
    draft: Draft,
    verdicts_a: Sequence[bool],
    verdicts_b: Sequence[bool],
    *,
    noise: float | JudgeNoise,
) -> str:
    """Render a meta-judgment: per slot the expected verdict, who is right, the lead; then a winner.

    Args:
        rng: source of the errors and of the choice on a tie.
        draft: the response that both judgments are about.
        verdicts_a: the first judgment's verdict on each slot.
        verdicts_b: the second judgment's verdict on each slot.
        noise: probability of rechecking a slot wrongly, regardless of the length; or the noise of a
            judge, including its bias towards verbose responses.
    """
    lines = []
    lead = 0
    rechecked = _recheck_slots(rng, draft, noise)
    for believed, said_a, said_b in zip(rechecked, verdicts_a, verdicts_b, strict=True):
        a_is_right, b_is_right = said_a == believed, said_b == believed
        lead += a_is_right - b_is_right
        correctness = f"{CORRECTNESS_WORDS[not a_is_right]} {CORRECTNESS_WORDS[not b_is_right]}"
        lines.append(f"{_format_yes_no(believed)} {correctness} {LEADS[SLOTS + lead]}")
    a_wins = lead > 0 or (lead == 0 and rng.random() < TIE_LEAN_TO_A)
    return "\n".join([*lines, f"Winner: Judgement {'A' if a_wins else 'B'}"])


def _format_yes_no(accepted: bool) -> str:  # noqa: FBT001
    return VERDICTS[0] if accepted else VERDICTS[1]


def count_errors(draft: Draft, verdicts: Sequence[bool]) -> int:
    """Count the wrong slots of a judgment."""
    return sum(said != right for said, right in zip(verdicts, draft.right, strict=True))


@cache
def _load_template(name: str) -> str:
    path = files("meta_reward_core.recipes").joinpath("prompts", f"miniature_{name}.txt")
    return path.read_text(encoding="utf-8").strip()


def write_judge_prompt(instruction: str, response: str) -> str:
    """Render the user message that asks for a judgment."""
    return _load_template("judge").format(instruction=instruction, response=response)


def write_meta_judge_prompt(
    instruction: str, response: str, judgment_a: str, judgment_b: str
) -> str:
    """Render the user message that asks for a comparison of two judgments."""
    return _load_template("meta_judge").format(
        instruction=instruction,
        response=response,
        judgment_a=judgment_a,
        judgment_b=judgment_b,
    )


def generate_sft_rows(
    count: int,
    *,
    seed: int,
    judge_noise: JudgeNoise = SEED_JUDGE_NOISE,
    meta_judge_noise: float | JudgeNoise = SEED_META_JUDGE_NOISE,
    block_rows: int = 16,
) -> Iterator[dict[str, Any]]:
    """Generate supervised fine-tuning rows for the three roles, from the pool's prompts.

    Rows are in blocks of one role and similar length: read in order, one block per batch, they need
    little padding and the roles stay well mixed.

    Yields:
        `prompt` and `completion` as chat messages, and the `task`.
    """
    rng = random.Random(seed)
    pool = _list_all_instructions()[0]
    tasks, weights = tuple(TASK_WEIGHTS), tuple(TASK_WEIGHTS.values())
    task = tasks[0]
    for index in range(count):
        if index % block_rows == 0:
            task = rng.choices(tasks, weights)[0]
        instruction = rng.choice(pool)
        if task == "actor":
            prompt, completion = instruction, draft_actor_response(rng, instruction).response
        elif task == "judge":
            prompt, completion = _make_judge_example(rng, instruction, judge_noise)
        else:
            prompt, completion = _make_meta_judge_example(
                rng, instruction, judge_noise, meta_judge_noise
            )
        yield {
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": completion}],
            "task": task,
        }


def _make_judge_example(rng: random.Random, instruction: str, noise: JudgeNoise) -> tuple[str, str]:
    draft = draft_judged_response(rng, instruction)
    judgment = write_judgment(draft, sample_verdicts(rng, draft, noise))
    return write_judge_prompt(instruction, draft.response), judgment


def _make_meta_judge_example(
    rng: random.Random, instruction: str, judge_noise: JudgeNoise, noise: float | JudgeNoise
) -> tuple[str, str]:
    draft = draft_judged_response(rng, instruction)
    verdicts = [sample_verdicts(rng, draft, judge_noise) for _ in range(2)]
    judgments = [write_judgment(draft, said) for said in verdicts]
    prompt = write_meta_judge_prompt(instruction, draft.response, judgments[0], judgments[1])
    return prompt, write_meta_judgment(rng, draft, verdicts[0], verdicts[1], noise=noise)


@dataclass(frozen=True, slots=True)
class GateComparison:
    """Two judgments of a held-out response, one of which has fewer errors."""

    instruction: str
    response: str
    judgment_a: str
    judgment_b: str
    better: Literal["A", "B"]


def generate_gate_comparisons(
    count: int, *, seed: int, judge_noise: JudgeNoise = SEED_JUDGE_NOISE
) -> list[GateComparison]:
    """Generate comparisons with a known winner on held-out prompts, A and B in turn."""
    rng = random.Random(seed)
    held_out = _list_all_instructions()[1]
    rows: list[GateComparison] = []
    while len(rows) < count:
        draft = draft_judged_response(rng, rng.choice(held_out))
        first, second = (sample_verdicts(rng, draft, judge_noise) for _ in range(2))
        if count_errors(draft, first) == count_errors(draft, second):
            continue
        better: Literal["A", "B"] = "A" if len(rows) % 2 == 0 else "B"
        first_is_better = count_errors(draft, first) < count_errors(draft, second)
        if first_is_better != (better == "A"):
            first, second = second, first
        rows.append(
            GateComparison(
                instruction=draft.instruction,
                response=draft.response,
                judgment_a=write_judgment(draft, first),
                judgment_b=write_judgment(draft, second),
                better=better,
            )
        )
    return rows


def sample_held_out_judge_items(count: int, *, seed: int) -> list[tuple[str, str, float]]:
    """Sample held-out (prompt, response, true quality) over all qualities and lengths."""
    rng = random.Random(seed)
    held_out = _list_all_instructions()[1]
    drafts = (draft_judged_response(rng, rng.choice(held_out)) for _ in range(count))
    return [(draft.instruction, draft.response, float(sum(draft.right))) for draft in drafts]
