"""Background jobs that users requested, and what is sent or built beside them."""
