# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The shape of the package: what is public, what imports what, and what an import costs."""

import ast
import doctest
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest

import fiberifu

ROOT = Path(fiberifu.__file__).parent
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
TENSOR_SIDE = ("model", "train", "simulate")  # torch at module level; no units, no WCS
TENSOR_SIDE_FACES = ("simulate/api/", "simulate/files/")  # where simulate meets astropy


def tree(module):
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


def part(module):
    """Top-level part of the package that a file belongs to: ``simulate/imager.py`` -> ``simulate``."""
    return module.removesuffix(".py").split("/")[0]


def dotted(module):
    """Name under which a file is imported: ``lines/__init__.py`` -> ``fiberifu.lines``."""
    stem = module.removesuffix(".py").removesuffix("__init__")
    return f"fiberifu/{stem}".strip("/").replace("/", ".")


def is_tensor_side(module):
    return part(module) in TENSOR_SIDE and not module.startswith(TENSOR_SIDE_FACES)


def imports(node, package, *, late):
    """Absolute names of what a syntax tree imports; with ``late`` also inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = package[: len(package) - child.level + 1] if child.level else []
            origin = ".".join([*base, *([child.module] if child.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in child.names)
        elif late or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(child, package, late=late)


def imports_of(module, *, late=False):
    return set(imports(tree(module), ["fiberifu", *module.split("/")[:-1]], late=late))


def python(code):
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_version():
    assert fiberifu.__version__ == metadata.version("fiberifu")


@pytest.mark.parametrize("name", fiberifu.__all__)
def test_public_name(name):
    assert getattr(fiberifu, name) is not None
    assert name in dir(fiberifu)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Spectrograph'"):
        fiberifu.Spectrograph  # noqa: B018


@pytest.mark.parametrize("module", MODULES)
def test_says_what_is_public(module):
    names = [
        ast.literal_eval(node.value)
        for node in tree(module).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert names, f"{module} has no __all__"
    loaded = importlib.import_module(dotted(module))
    missing = [name for name in names[0] if not hasattr(loaded, name)]
    assert not missing, f"__all__ of {module} names what is not there: {missing}"


@pytest.mark.parametrize("module", [m for m in MODULES if ">>> " in (ROOT / m).read_text(encoding="utf-8")])
def test_examples_in_docstrings(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(dotted(module)), optionflags=flags).failed == 0


@pytest.mark.parametrize("module", [m for m in MODULES if not is_tensor_side(m)])
def test_no_torch_at_module_level(module):
    assert "torch" not in {name.split(".")[0] for name in imports_of(module)}


def test_imports_run_one_way():
    """No two parts of the package import each other, directly or around a corner, not even late."""
    graph = {}
    for module in MODULES:
        if module == "__init__.py":
            continue
        used = {name.split(".")[1] for name in imports_of(module, late=True) if name.startswith("fiberifu.")}
        graph.setdefault(part(module), set()).update(used & {part(m) for m in MODULES} - {part(module)})
    list(TopologicalSorter(graph).static_order())  # CycleError names the cycle
    assert graph["flags"] == graph["constants"] == set()
    assert graph["model"] <= {"constants"}
    assert graph["train"] <= {"constants", "model", "simulate"}
    assert {name for name, used in graph.items() if "cli" in used} <= {"__main__"}
    assert {name for name, used in graph.items() if "commands" in used} <= {"cli"}


def test_tensor_side_needs_no_astropy():
    """Training runs where only torch and numpy are."""
    modules = [dotted(m) for m in MODULES if is_tensor_side(m) and not m.endswith("__main__.py")]
    absent = ["astropy", "specutils", "photutils", "regions", "scipy", "matplotlib"]
    python(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({absent}))\n"  # None makes the import fail
        f"for name in {modules}: importlib.import_module(name)\n"
    )


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("fiberifu", ["torch", "specutils", "astropy", "numpy", "matplotlib"]),
        ("fiberifu.cli", ["torch", "specutils", "matplotlib"]),
    ],
)
def test_import_is_light(module, absent):
    loaded = python(f"import sys, {module}\nprint(*sorted(set({absent}) & set(sys.modules)))").split()
    assert not loaded, f"import {module} loads {loaded}"


def test_astropy_side_loads_torch_late():
    modules = [dotted(m) for m in MODULES if part(m) not in TENSOR_SIDE]
    loads = python(
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: print(name); break\n"
    )
    assert not loads, f"import {loads.strip()} loads torch"
