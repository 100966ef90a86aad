"""Background jobs requested by users, notifications, and index building."""
