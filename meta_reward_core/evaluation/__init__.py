"""Evaluation: metrics of iterations, and benchmarks.

Nothing here is read by a step that trains or selects. The truth, where there is one, is asked by
`miniature.evaluation`.
"""
