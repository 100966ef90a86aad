"""Training by TRL: our settings to theirs, rows counted in and out, checkpoints published once."""
