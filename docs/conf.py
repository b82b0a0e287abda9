"""The documentation site: `make docs` builds it from the repository's own pages.

The repository is the source folder, so that links between pages, configs and tables of benchmarks
are the same on the site and off it.
"""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

from lightning_ssl import __version__

project = "lightning_ssl"
author = "The lightning_ssl authors"
release = __version__
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "benchmarks/results/*.md"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tests/test_notebooks.py runs them
autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": True}
autodoc_typehints = "signature"
napoleon_use_ivar = True  # fields of a NamedTuple are members already
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "lightning_ssl"
html_math_renderer = "mathml"  # which a browser shows without a script


def visit_math(translator: Any, node: nodes.Element) -> None:
    """Write a formula, in its line or as a block."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Add the renderer of formulas."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
