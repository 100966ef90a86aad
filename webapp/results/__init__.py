"""Browse the results of an experiment, prompt by prompt."""
