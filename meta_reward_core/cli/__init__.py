"""Shared parts of command lines: options, terminal output, progress callbacks."""
