"""Sphinx: the Markdown of this directory, and nothing else."""

project = "darkfactory"
author = "The darkfactory authors"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "alabaster"
exclude_patterns = ["_build"]
