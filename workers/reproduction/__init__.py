"""Arms times seeds: the matrix of runs, their records and their report."""
