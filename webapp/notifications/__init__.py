"""Tell people what happened to their experiments, by e-mail or by a webhook."""
