"""The model check of an experiment: its model, recipe and prompts, before any generation."""
