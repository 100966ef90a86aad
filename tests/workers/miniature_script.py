"""A scripted actor and judge of the miniature world, and a meta-judge of any noise."""

import random
import re
from dataclasses import dataclass, field

from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.tasks.toy import task
from meta_reward_core.tasks.toy.task import Draft

RECIPE = """\
name: scripted
model: stub
iterations: 2
prompts_per_shard: 8
probe: {prompts: 0, check_shards: false}
sample: {prompts: 24}
actor: {samples: 4}
judge: {samples: 5, template: miniature_judge}
meta_judge: {max_chosen_judgment_chars: null, template: miniature_meta_judge}
engine: {kind: scripted}
"""

_JUDGE = re.compile(r"Judge\n(.*)\nReply :\n(.*)", re.DOTALL)
_META_JUDGE = re.compile(
    r"Compare\n(.*)\nReply :\n(.*)\nJudgement A\n(.*)\nJudgement B\n(.*)", re.DOTALL
)


@dataclass(frozen=True)
class MiniatureScript:
    """Replies as a model of that world would give them, from what was written before.

    Attributes:
        noise: chance that the meta-judge rechecks a slot wrongly; at a half it is a coin.
    """

    noise: float
    drafts: dict[tuple[str, str], Draft] = field(default_factory=dict)

    def __call__(self, conversation: Conversation, sample: int, seed: int) -> str:
        asked = conversation[-1]["content"]
        rng = random.Random(derive_seed(seed, asked, sample))
        if found := _META_JUDGE.fullmatch(asked):
            instruction, response, a, b = found.groups()
            draft, noise = self.drafts[instruction, response], self.noise
            return task.write_meta_judgment(rng, draft, _verdicts(a), _verdicts(b), noise=noise)
        if found := _JUDGE.fullmatch(asked):
            draft = self.drafts[found[1], found[2]]
            verdicts = task.sample_verdicts(rng, draft, task.SEED_JUDGE_NOISE)
            return task.write_judgment(draft, verdicts)
        draft = task.draft_judged_response(rng, asked)
        self.drafts[asked, draft.response] = draft
        return draft.response


def _verdicts(judgment: str) -> tuple[bool, ...]:
    return tuple(line.split()[2] == "yes" for line in judgment.splitlines()[: task.SLOTS])
