"""A tiny synthetic world in which the whole Meta-Rewarding loop runs in minutes on a processor.

It tests the mechanism, not the paper's claim about large models: the signal is planted.
"""
