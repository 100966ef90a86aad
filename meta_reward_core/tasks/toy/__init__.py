"""A small synthetic task on which the whole Meta-Rewarding loop runs in minutes on a CPU.

It tests the mechanism, not the paper's claim about large models: the signal is planted.
"""
