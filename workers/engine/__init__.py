"""The child process that holds a model, and its client."""
