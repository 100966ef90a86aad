"""Human-labeled pairs of outputs in LLMBar's format.

Source: Zeng et al. 2023, "Evaluating Large Language Models at Evaluating Instruction Following",
arXiv 2310.07641.
"""
