# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What is trained: ``smoke.toml, cpu.toml, full.toml, or a file of one's own -> Plan -> arms, a training recipe each``.

Arms differ in ``[survey]`` alone: what they train on. Network, first weights, steps, batches and rates are the same.
"""

import dataclasses
import tomllib
from importlib import resources
from pathlib import Path

__all__ = ["SIZES", "Arm", "Plan", "packaged_recipe", "simulated_visits"]

SIZES = ("smoke", "cpu", "full")
KINDS = ("fibres", "cubes", "control")


def packaged_recipe(name):
    """A recipe of ``fiberifu/train/recipes``."""
    from ...train import Recipe

    with resources.as_file(resources.files("fiberifu.train") / "recipes" / f"{name}.toml") as path:
        return Recipe.read(path)


def simulated_visits(recipe):
    """Visits of galaxies that a training simulates: batches on a shelf are seen ``passes`` times.

    Parameters
    ----------
    recipe : `~fiberifu.train.Recipe`

    Returns
    -------
    int
    """
    whole, rest = divmod(recipe.steps, recipe.passes * recipe.shelf) if recipe.passes > 1 else (0, recipe.steps)
    return (whole * recipe.shelf + (min(rest, recipe.shelf) if recipe.passes > 1 else rest)) * recipe.batch


@dataclasses.dataclass(frozen=True)
class Arm:
    """One training.

    Parameters
    ----------
    name : str
        As on the page.
    kind : {'fibres', 'cubes', 'control'}
    galaxies : int
        That it is trained on.
    placement : str
        Of fibres, one of the plan's; empty for cubes and control.
    recipe : `~fiberifu.train.Recipe`
        By which it is trained.
    """

    name: str
    kind: str
    galaxies: int
    placement: str
    recipe: object

    @property
    def folder(self):
        """Name of its folder."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())


@dataclasses.dataclass(frozen=True)
class Plan:
    """The experiment: a TOML file with these names.

    Parameters
    ----------
    title : str
        Of the size.
    network : str
        Packaged recipe whose network is trained.
    training : dict
        Settings of `~fiberifu.train.Recipe` that differ from those of ``nano_fibers.toml``: the same for all arms.
    fibers : list of int
        Numbers of galaxies with one fibre each, placed as ``placements`` has it first.
    placements : dict of str to float
        Placement -> share of fibres off the centre, uniform within 1.5 effective radii. All at the largest number.
    cubes : list of int
        Numbers of galaxies with a cube each.
    positions : int
        Apertures of a cube that are read at each visit.
    control : int
        Galaxies, seen as cubes, without noise and unseen scatter; 0 for no control.
    galaxies, control_galaxies : int
        Held-out galaxies that are judged; of the control, which has its own.
    spaxels : int
        Of each cube that baselines learn from.
    draws : int
        Of the bootstrap.
    analytic : bool
        Whether templates from a few formulae may stand in for real ones that are not there.
    """

    title: str
    network: str = "nano"
    training: dict = dataclasses.field(default_factory=dict)
    fibers: tuple = (200, 650, 2000)
    placements: dict = dataclasses.field(default_factory=lambda: {"DESI-like": 0.15, "central": 0.0, "scattered": 1.0})
    cubes: tuple = (30, 100, 300)
    positions: int = 4
    control: int = 0
    galaxies: int = 500
    control_galaxies: int = 200
    spaxels: int = 20
    draws: int = 500
    analytic: bool = False

    def __post_init__(self):
        for name in ("fibers", "cubes"):
            numbers = getattr(self, name)
            whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers)
            if not (numbers and whole and list(numbers) == sorted(set(numbers))):
                raise ValueError(f"{name}: got {list(numbers)}; give rising numbers of galaxies")
        if not self.placements or not all(0 <= share <= 1 for share in self.placements.values()):
            raise ValueError(f"placements: got {self.placements}; give shares off the centre, between 0 and 1")
        for name in ("positions", "galaxies", "control_galaxies", "spaxels", "draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; one or more are needed")
        arms = self.arms()  # refuses what a recipe refuses
        folders = {}
        for arm in arms:
            if (other := folders.setdefault(arm.folder, arm)) is not arm:
                raise ValueError(
                    f"placements: got {other.placement!r} and {arm.placement!r}, which are one name, {arm.folder}, "
                    "of a folder; give names that differ in letters or figures"
                )
            if arm.galaxies > (visits := simulated_visits(arm.recipe)):
                name = {"fibres": "fibers"}.get(arm.kind, arm.kind)
                raise ValueError(
                    f"{name}: got {arm.galaxies}, and a training of {arm.recipe.steps} steps of {arm.recipe.batch}, "
                    f"passes {arm.recipe.passes}, visits {visits}; give fewer, or more steps"
                )

    @classmethod
    def read(cls, size):
        """A packaged plan by its name, or one from a file.

        Parameters
        ----------
        size : str or path-like
            One of `SIZES`, or a TOML file.

        Returns
        -------
        Plan

        Raises
        ------
        ValueError, FileNotFoundError
            For no such file, or what is wrong in it.
        """
        if size in SIZES:
            text = (resources.files(__package__) / f"{size}.toml").read_text(encoding="utf-8")
        elif Path(size).is_file():
            text = Path(size).read_text(encoding="utf-8")
        else:
            raise FileNotFoundError(f"size: {size} is none of {', '.join(SIZES)}, and no such file is there")
        try:
            return cls.from_dict(tomllib.loads(text))
        except (tomllib.TOMLDecodeError, ValueError) as error:
            raise ValueError(f"size: {size}: {error}") from error

    @classmethod
    def from_dict(cls, values):
        """From the values of a file.

        Parameters
        ----------
        values : dict

        Returns
        -------
        Plan

        Raises
        ------
        ValueError
            For unknown names, wrong types, and what is out of range.
        """
        known = {f.name: f for f in dataclasses.fields(cls)}
        if extra := sorted(set(values) - set(known)):
            raise ValueError(f"unknown names {extra}; known: {sorted(known)}")
        if "title" not in values:
            raise ValueError("title is missing")
        default = cls(title="")
        out = {}
        for name, value in values.items():
            value = tuple(value) if isinstance(value, list) else value
            if type(value) is not type(getattr(default, name)):
                raise ValueError(f"{name}: got {value!r}; a {type(getattr(default, name)).__name__} is needed")
            out[name] = value
        return cls(**out)

    def arms(self, **changes):
        """The trainings, in the order in which they are done: what answers most comes first.

        Parameters
        ----------
        **changes
            Of all recipes, such as ``workers``.

        Returns
        -------
        list of Arm
        """
        first, *others = self.placements
        most, ends = self.fibers[-1], (self.cubes[0], self.cubes[-1])
        out = [self._fibers(most, first, changes)]
        out += [self._cubes(n, changes) for n in sorted(self.cubes, key=lambda n: (n not in ends, -n))]
        out += [self._fibers(most, placement, changes) for placement in others]
        out += [self._fibers(n, first, changes) for n in self.fibers[-2::-1]]
        if self.control:
            recipe = self._recipe("ifu", changes, galaxies=self.control, positions=self.positions, scatter=False)
            recipe = dataclasses.replace(recipe, simulator=recipe.simulator | {"noise": False})
            out.append(Arm(f"control, {self.control} cubes", "control", self.control, "", recipe))
        return out

    def _fibers(self, galaxies, placement, changes):
        recipe = self._recipe("fibers", changes, galaxies=galaxies, off_centre=float(self.placements[placement]))
        return Arm(f"{galaxies} fibres, {placement}", "fibres", galaxies, placement, recipe)

    def _cubes(self, galaxies, changes):
        recipe = self._recipe("ifu", changes, galaxies=galaxies, positions=self.positions)
        return Arm(f"{galaxies} cubes", "cubes", galaxies, "", recipe)

    def _recipe(self, kind, changes, **survey):
        base = packaged_recipe(f"nano_{kind}")
        unknown = set(self.training) - {f.name for f in dataclasses.fields(base)}
        if fixed := sorted(unknown | ({"model", "survey", "simulator", "shards"} & set(self.training))):
            raise ValueError(f"training: {fixed} cannot be set; give seed, steps, batch, learning_rate and the like")
        survey = dataclasses.replace(base.survey, **survey)
        model = packaged_recipe(self.network).model
        return dataclasses.replace(base, model=model, survey=survey, **(self.training | changes))
