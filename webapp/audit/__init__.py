"""Humans judge the judge: blind items, their answers, and what follows from them."""
