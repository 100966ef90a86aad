"""Measuring: what the files of an iteration say about the model that made them.

Nothing here is read by a step that trains or selects. The truth, where there is one, is asked by
`miniature.evaluation`.
"""
