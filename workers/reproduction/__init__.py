"""The matrix of arms and seeds: runs, their records and their report."""
