"""Notify users about their experiments by email or webhook."""
