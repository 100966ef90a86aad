"""Start experiments from a form, duplicate and compare them."""
