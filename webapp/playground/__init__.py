"""Try models on a prompt of one's own, and publish them."""
