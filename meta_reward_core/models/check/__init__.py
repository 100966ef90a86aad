"""The model check: verify a model folder before any work, without reading weights."""
