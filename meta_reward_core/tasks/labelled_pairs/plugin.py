"""Labelled pairs as a plug-in task: it evaluates and supplies nothing that trains."""

from meta_reward_core.tasks.labelled_pairs.benchmark import NAME, LabelledPairs
from meta_reward_core.tasks.protocol import TaskDefinition

TASK = TaskDefinition(name=NAME, title="human-labelled pairs (LLMBar)", benchmark=LabelledPairs())
