"""The API: the site's operations for programs, as JSON."""
