"""Verifiable instructions in IFEval's format, checked by programs.

Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models",
arXiv 2311.07911.
"""
