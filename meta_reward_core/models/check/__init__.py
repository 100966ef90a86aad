"""The model check: what is verified about a model folder before any work, weights unread."""
