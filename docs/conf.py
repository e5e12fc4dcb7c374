"""The documentation's settings. `sphinx-build -W -c docs . build/docs` reads the Markdown files and the docstrings."""

from pathlib import Path

import featurepipe

project = "featurepipe"
version = release = featurepipe.__version__
root_doc = "docs/index"
include_patterns = ["*.md", "benchmarks/*.md", "data/**.md", "docs/*.md", "docs/tutorials/*.ipynb"]
include_patterns += ["docs/generated/*", "featurepipe/**.md"]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "myst_nb"]
templates_path = [str(Path(__file__).with_name("templates"))]
html_theme = "furo"

default_role = "py:obj"  # `name` in a docstring is a link if there is such a name
myst_heading_anchors = 3
nb_execution_mode = "off"  # tutorials show what `python docs/notebooks.py` has left in them
autodoc_default_options = {"exclude-members": "set_fit_request,set_score_request"}  # scikit-learn's
suppress_warnings = ["ref.python"]  # a word in the type of an attribute may be the name of others
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_param = napoleon_use_rtype = False  # types are English, no names to link
