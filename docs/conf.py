"""The site: `python -m sphinx -W -b html docs build/site`, without a network.

The guides are the Markdown pages of this folder. The reference is made here,
one page an area, from `kdjax.<area>.__all__`; nothing generated is committed.
"""

import pathlib
import sys

DOCS = pathlib.Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_extensions")]

import kdjax  # noqa: E402

project = "kdjax"
author = "the authors of kdjax"
project_copyright = author
release = version = kdjax.__version__

extensions = [
  "myst_parser",
  "sphinx.ext.autodoc",
  "sphinx.ext.autosummary",
  "sphinx.ext.napoleon",
  "code_links",
  "mathml",
  "reference",
]

myst_enable_extensions = ["dollarmath", "substitution"]
myst_heading_anchors = 3
myst_substitutions = {"version": version}

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False  # one page an area, not one a function
maximum_signature_line_length = 70
napoleon_attr_annotations = False  # shape strings are not reStructuredText
napoleon_use_ivar = True
smartquotes_action = "D"  # dashes; a quoted value stays as it is typed
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"kdjax {version}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
