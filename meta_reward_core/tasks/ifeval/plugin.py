"""IFEval as a plug-in task: it evaluates and supplies nothing that trains."""

from meta_reward_core.tasks.ifeval.benchmark import NAME, IfEval
from meta_reward_core.tasks.protocol import TaskDefinition

TASK = TaskDefinition(name=NAME, title="verifiable instructions (IFEval)", benchmark=IfEval())
