"""Inference engines: one protocol, several implementations."""
