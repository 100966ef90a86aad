"""Operation of an installation: services, broker, heartbeats, backups, pruning."""
