"""Verifiable instructions in IFEval's format: a program checks what a prompt asks of its response.

Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models",
arXiv 2311.07911.
"""
