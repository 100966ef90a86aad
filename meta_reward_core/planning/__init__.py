"""Steps before an iteration runs: the request, the experiment's setup, and the cost estimate."""
