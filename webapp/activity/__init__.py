"""The activity log: who did what, when and why."""
