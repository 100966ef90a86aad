"""Untrusted input, signals, logging of libraries, and commands shown to users."""
