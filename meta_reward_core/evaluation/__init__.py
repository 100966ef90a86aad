"""Measuring: what the files of an iteration say, and, where one exists, what the truth says.

Nothing here is read by a step that trains or selects.
"""

from meta_reward_core.miniature.evaluation import measure_model as measure_with_oracle

__all__ = ["measure_with_oracle"]
