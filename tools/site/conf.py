"""Sphinx's configuration: Markdown pages, one theme, nothing from anybody else's server."""

project = "Aqueduct"
author = "the Aqueduct developers"
html_title = "Aqueduct"
extensions = ["myst_parser", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
root_doc = "index"

myst_heading_anchors = 4
"""Links to headings, as a repository's host makes them; one that leads nowhere is a warning."""
nitpicky = True
suppress_warnings = [
    "misc.highlighting_failure",  # an example with … in it is no JSON
    "myst.header",  # a page may begin with its third level
]

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["aqueduct.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_last_updated_fmt = None
copybutton_exclude = ".linenos, .gp, .go"
