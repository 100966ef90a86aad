"""The report: the paper's tables and figures for experiments, next to the paper's own values.

`runs` reads files, `paper` holds the paper's figures, `estimates` knows the arithmetic of seeds,
`tables`, `plots` and `accounts` make the parts, `build` puts them in order, `markdown` writes them.
Nothing here loads a model, draws a picture or knows the web.
"""
