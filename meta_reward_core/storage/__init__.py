"""Artifacts: tables and their schemas, manifests, locks, checkpoints."""
