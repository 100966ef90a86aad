"""Shards and stages: from rows to work, and from work to rows."""
