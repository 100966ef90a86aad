"""Statistics of audits: sampling of items, and estimates from answers.

Pure functions of numbers and labels, independent of database, pages and models.
"""
