"""Configuration of the documentation site: `make docs` builds it into var/public/docs.

The built pages have no inline script, no inline style and no request to another host, so that the
dashboard can serve them under its strict content security policy.
"""

from importlib.metadata import version as read_version

project = "Meta-Reward"
author = "The Meta-Reward maintainers"
release = version = read_version("meta-reward")
html_title = project
language = "en"
default_role = "code"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_templates", "miniature_paper/**", "reliability/**", "pictures/**"]
templates_path = ["_templates"]
nitpicky = False  # types of the standard library and of torch have no pages here

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header"]  # generated reports begin sections at their own level

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["theme.css"]
html_use_index = False
html_domain_indices = False
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
