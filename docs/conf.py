# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sphinx configuration on top of Astropy's own."""

import os
from importlib import metadata

from sphinx_astropy.conf.v2 import *  # noqa: F403
from sphinx_astropy.conf.v2 import exclude_patterns, html_theme_options, intersphinx_mapping

project = "fiberifu"
author = "fiberifu developers"
copyright = f"2026, {author}"
release = metadata.version(project)
version = ".".join(release.split(".")[:2])

exclude_patterns += ["conftest.py"]
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_theme_options = {**html_theme_options, "logo": {"text": project}}
html_sidebars = {"**": []}  # no page has sections of its own: the room is for the text

# Pages build without a network: links into other projects' documentation are made only when asked for.
offline_default = "0" if os.environ.get("READTHEDOCS") == "True" else "1"
if os.environ.get("FIBERIFU_DOCS_OFFLINE", offline_default) != "0":
    intersphinx_mapping.clear()
else:
    for name in ("pythonloc", "astropy.org", "h5py"):
        intersphinx_mapping.pop(name, None)
    intersphinx_mapping |= {
        "photutils": ("https://photutils.readthedocs.io/en/stable/", None),
        "regions": ("https://astropy-regions.readthedocs.io/en/stable/", None),
        "specutils": ("https://specutils.readthedocs.io/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

plot_formats = [("png", 110)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = True
