"""Labeled pairs as a task plug-in, for evaluation only."""

from meta_reward_core.tasks.labelled_pairs.benchmark import NAME, LabelledPairs
from meta_reward_core.tasks.protocol import TaskDefinition

TASK = TaskDefinition(name=NAME, title="human-labelled pairs (LLMBar)", benchmark=LabelledPairs())
