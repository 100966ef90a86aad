"""Training with TRL: settings, row counts, and checkpoints."""
