"""The hands: the only place where rows meet the method."""
