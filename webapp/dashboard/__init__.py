"""Pages about experiments, iterations and workers, the activity log, and the admin."""
