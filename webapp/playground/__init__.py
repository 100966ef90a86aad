"""Try models on a user's prompt, and publish them."""
