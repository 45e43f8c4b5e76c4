# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Docstrings of what is public, by numpydoc's own validation: what they say of parameters is complete and right."""

import importlib
import inspect

import pytest

validation = pytest.importorskip("numpydoc.validate", reason="numpydoc is not installed (it comes with the docs extra)")

PAGES = (
    "fiberifu fiberifu.image fiberifu.pretrained fiberifu.cube fiberifu.lines fiberifu.flags fiberifu.plot "
    "fiberifu.surveys fiberifu.simulate fiberifu.validate fiberifu.validate.headline fiberifu.train fiberifu.datasets "
    "fiberifu.infer_job"
).split()

#: Rules of numpydoc that are not ours, and why.
NOT_OURS = {
    "EX01": "examples are on the pages, where they are tested",
    "SA01": "references are in the text",
    "ES01": "a summary may say it all",
    "PR03": "keyword-only parameters are grouped by what they mean",
    "PR04": "'image, seeing' with 'As for predict.' needs no type",
    "PR07": "a name and its type may say it all",
    "PR08": "a description may begin with a symbol or an 'of'",
    "RT03": "as PR07",
    "RT04": "as PR08",
    "SS05": "'Draws ...' is as good as 'Draw ...'",
    "SS06": "a summary of two lines is short enough",
    "GL01": "text begins beside the quotes",
    "SS03": "**Not an observation.** is the end of a sentence, too",
    "GL08": "tests/test_package.py asks for what is public; one-line properties need no more",
}
#: Docstrings that stay as they are: their files are frozen, so that a seed makes the same galaxies.
FROZEN = {
    "fiberifu.simulate.Photometry.fiber_flux": {"PR01", "RT01"},
    "fiberifu.simulate.SpectralGrid.lsf_at": {"SS02"},
    "fiberifu.simulate.observe_ifu": {"PR01"},
    "fiberifu.simulate.observe_manga": {"RT01"},
    "fiberifu.simulate.reanchor": {"PR01"},
}


def public():
    """Dotted names of public functions, classes and their methods that have a docstring of sections."""
    for page in PAGES:
        module = importlib.import_module(page)
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                yield f"{page}.{name}", thing
            elif inspect.isclass(thing):
                yield f"{page}.{name}", thing
                for method, value in vars(thing).items():
                    if not method.startswith("_") and (
                        inspect.isfunction(value) or isinstance(value, classmethod | staticmethod)
                    ):
                        yield f"{page}.{name}.{method}", getattr(thing, method)


def test_docstrings_are_right():
    """A docstring of one line is a sentence; one that has a section of parameters has all of them, and no other."""
    wrong, seen, checked = [], set(), 0
    for name, thing in public():
        text = inspect.getdoc(thing) or ""
        if thing in seen or not text:
            continue
        seen.add(thing)
        errors = {code: message for code, message in validation.validate(name)["errors"] if code not in NOT_OURS}
        for code in FROZEN.get(name, ()):
            errors.pop(code)  # KeyError: it was mended, and is no exception any more
        if "Parameters\n---" not in text:
            for code in ("PR01", "RT01"):  # a line says it, or attributes do
                errors.pop(code, None)
        checked += 1
        wrong += [f"{name}: {code} {message}" for code, message in errors.items()]
    assert checked > 150
    assert not wrong, "\n".join(wrong)
