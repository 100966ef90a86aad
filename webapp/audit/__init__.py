"""Human review: blind items, their answers, and the resulting estimates."""
