"""The engine process that holds a model, and its client."""
