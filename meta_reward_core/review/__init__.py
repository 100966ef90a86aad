"""Statistics of audits: sampling of items, and estimates from answers.

Pure functions of numbers and labels. It knows no database, no page and no model.
"""
