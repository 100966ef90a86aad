"""Run shards and stages: from database rows to work and back."""
