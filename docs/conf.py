"""The pages: `make docs` builds them, and fails at the first warning."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import tutelage

project = "tutelage"
copyright = "The tutelage authors, MIT licence"
version = release = tutelage.__version__

extensions = ["myst_parser", "pages"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

smartquotes = False  # s' is a state, not a quotation

html_theme = "furo"
html_title = "tutelage"
html_copy_source = False
