"""Before an iteration runs: the request, the experiment's setup, and what it will cost."""
