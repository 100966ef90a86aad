"""The report as a page, and as one HTML or Markdown file."""
