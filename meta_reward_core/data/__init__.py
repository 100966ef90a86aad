"""Prompts and training data: reading, generating, holding out, exporting."""
