"""Experiments: database models, jobs and progress."""
