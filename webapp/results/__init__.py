"""Look into what an experiment made, prompt by prompt."""
