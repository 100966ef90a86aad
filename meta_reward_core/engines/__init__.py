"""Where tokens come from: one protocol, several engines."""
