"""The method: generation, judging, meta-judging, pairing, battles and Elo."""
