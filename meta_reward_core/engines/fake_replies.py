"""Replies that look like an actor's, a judge's or a meta-judge's, for plumbing without a model.

They are a function of the conversation, the sample and the seed. They mean nothing.
"""

from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.seeds import derive_seed

_PHRASES = ("to begin with", "it depends", "for example", "in short", "as you asked", "note that")


def make_fake_reply(conversation: Conversation, sample: int, seed: int) -> str:
    """Answer in the form that the prompt asks for."""
    asked = conversation[-1]["content"]
    draw = derive_seed(seed, asked, sample)
    body = " ".join(_PHRASES[(draw >> shift) % len(_PHRASES)] for shift in range(draw % 9 + 1))
    if "Better: tie" in asked:
        return f"{body}\nBetter: {('A', 'B', 'tie')[draw % 3]}"
    if "[[A>>B]]" in asked:
        return f"{body}\n[[{('A>>B', 'A>B', 'A=B', 'B>A', 'B>>A')[draw % 5]}]]"
    if "Rating: [[" in asked:
        return f"{body}\nRating: [[{draw % 10 + 1}]]"
    if "Winner:" in asked or asked.startswith("Compare"):
        return f"{body}\nWinner: Judgement {'AB'[draw % 2]}"
    if "Score:" in asked or asked.startswith("Judge"):
        return f"{body}\nScore: {draw % 6}"
    return body
