"""Table ``[shards]`` of a recipe: which store is trained on, and how it is read."""

import dataclasses

from .record import SPLITS
from .store import ShardStore

__all__ = ["Shards", "check_store", "describe_store"]


@dataclasses.dataclass(frozen=True)
class Shards:
    """Training on records of files instead of simulated galaxies.

    Parameters
    ----------
    path : str
        Folder that ``fiberifu shards`` has made; not part of a recipe's hash, the records are (see `ShardStore`).
    fibers : int
        Of a galaxy at most, in one visit.
    threads : int
        Which read ahead; 0 reads when asked. Not part of the hash either.
    split : {'train', 'held_out', 'between'}
        Side of the split of the sky; another than 'train' is for tests.
    """

    path: str
    fibers: int = 4
    threads: int = 2
    split: str = "train"

    def __post_init__(self):
        if not self.path:
            raise ValueError("shards.path: missing; give the folder that 'fiberifu shards' has made")
        if self.fibers < 1 or self.threads < 0:
            raise ValueError(f"shards: got fibers = {self.fibers}, threads = {self.threads}; 1 and 0 are the least")
        if self.split not in SPLITS:
            raise ValueError(f"shards.split: got {self.split!r}, use one of {SPLITS}")

    @classmethod
    def from_dict(cls, values):
        """Settings from a table of a recipe.

        Raises
        ------
        ValueError
            For an unknown name, a value of the wrong type or out of range.
        """
        kinds = {"path": str, "fibers": int, "threads": int, "split": str}
        if not isinstance(values, dict):
            raise ValueError(f"shards: got {values!r}; a table [shards] is needed")
        if extra := sorted(set(values) - set(kinds)):
            raise ValueError(f"shards: unknown names {extra}; known: {sorted(kinds)}")
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, kinds[name]):
                raise ValueError(f"shards.{name}: got {value!r}; a {kinds[name].__name__} is needed")
        return cls(**{"path": "", **values})

    def hashed(self):
        """What decides which weights come out, of these settings."""
        return {"fibers": self.fibers, "split": self.split}


def check_store(settings, model):
    """sha256 of the records of a store that a model can read.

    Parameters
    ----------
    settings : Shards
    model : `fiberifu.model.ModelConfig`

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such store, or it was made for another geometry.
    """
    store = ShardStore(settings.path)
    names = ("stamp", "pixel_scale", "aperture", "wave_start", "wave_step", "wave_size")
    wanted, made = ({name: getattr(x, name) for name in names} for x in (model, store.layout))
    if wanted != made or not set(store.layout.bands) <= set(model.bands):
        raise ValueError(
            f"shards {settings.path}: hold {made}, bands {store.layout.bands}; the model reads {wanted}, bands "
            f"{model.bands}"
        )
    return store.sha256


def describe_store(settings):
    """What weights must say of the records that they were trained on, for their passport."""
    store = ShardStore(settings.path)
    meta = store.index["meta"]
    return {
        "training_data": f"{meta.get('kind', 'unknown').lower()} galaxies of {meta.get('tree', store.path.name)}",
        "training_records_sha256": store.sha256,
        "training_galaxies": store.index["splits"][settings.split],
        "placement": "survey",
    }
