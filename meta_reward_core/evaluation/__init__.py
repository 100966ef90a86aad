"""Evaluation: metrics of iterations, and benchmarks.

No stage that trains or selects reads anything from here. The ground truth, if there is one, is used
by `tasks`.
"""
