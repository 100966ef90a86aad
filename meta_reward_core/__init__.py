"""Meta-Rewarding: a language model that improves itself, its judge and its judge's judge.

This package is the method and nothing else: it knows no web, no queue and no database.
Start reading at `meta_reward_core.iteration`.
"""
