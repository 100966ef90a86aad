"""Commands, jobs and Celery tasks: the only package that connects the database and the core."""
