"""Statistics of an audit: which items people look at, and what follows from their answers.

Pure functions of numbers and labels. It knows no database, no page and no model.
"""
