"""Recipes: their schema, how they are loaded, and the prompt templates that they name."""
