"""What command lines share: options, terminal output, progress callbacks."""
