"""Processes: signals, parents that die, noisy libraries, commands shown to users."""
