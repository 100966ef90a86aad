"""The report: the paper's tables and figures for experiments, next to the paper's own values.

`run_loader` reads files, `published_results` has the paper's values, `seed_statistics` estimates
over seeds, `tables`, `plots` and `appendix` build the parts, `assemble` orders them, and
`markdown` writes them. Nothing here loads a model, renders an image or depends on the web app.
"""
