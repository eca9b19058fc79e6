"""Sphinx's settings for the site; build.py makes its source directory and runs it."""

import os
import re
from pathlib import Path

from docutils import nodes

ROOT = Path(os.environ["MAYPOLE_ROOT"])

project = "Maypole"
author = "the Maypole contributors"
release = re.search(r'^version = "([^"]+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
version = release
html_title = f"Maypole {release}"

extensions = ["myst_parser", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
root_doc = "index"
language = "en"
nitpicky = True
# A block that its lexer does not understand is shown without colours.
suppress_warnings = ["misc.highlighting_failure"]

# GitHub makes an anchor for every heading.
myst_heading_anchors = 6
myst_enable_extensions = ["html_image"]
html_theme = "furo"
html_static_path = [str(ROOT / "docs" / ".site" / "static")]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#b34700", "color-brand-content": "#b34700"},
    "dark_css_variables": {"color-brand-primary": "#ff9a57", "color-brand-content": "#ff9a57"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# Output and sketches are not for pasting.
copybutton_selector = "div:not(.highlight-text) > div.highlight > pre"

linkcheck_timeout = 20
linkcheck_ignore = [r"https?://(127\.0\.0\.1|localhost|[\w.]*example\.com)\b"]
linkcheck_anchors_ignore_for_url = [r"https://github\.com/.*"]


def mark_short_code(_app, doctree, _name):
    """Marks inline code that fits on a line of a phone."""
    for node in doctree.findall(nodes.literal):
        if len(node.astext()) <= 32:
            node["classes"].append("short")


def setup(app):
    app.connect("doctree-resolved", mark_short_code)
    return {"parallel_read_safe": True}
