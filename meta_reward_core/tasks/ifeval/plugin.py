"""IFEval as a task plug-in, for evaluation only."""

from meta_reward_core.tasks.ifeval.benchmark import NAME, IfEval
from meta_reward_core.tasks.protocol import TaskDefinition

TASK = TaskDefinition(name=NAME, title="verifiable instructions (IFEval)", benchmark=IfEval())
