"""Running an installation: services, broker, heartbeats, backups, pruning."""
