"""Ask for experiments and watch them."""
