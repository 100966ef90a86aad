"""Tasks with a known ground truth."""
