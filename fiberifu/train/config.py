"""A recipe: one TOML file per trained model, read into a dataclass that refuses what it does not know."""

import dataclasses
import hashlib
import json
import tomllib
from pathlib import Path

from ..model import ModelConfig
from .finite_survey import Survey
from .locality import Locality
from .shards import Shards

__all__ = ["Recipe"]

MOST_STEPS = 5_000_000  # of a seed; what is simulated for validation lies beyond
UNHASHED = ("compile", "picture_steps", "encoder_parts")  # where and how, not what
NEWER = (
    "survey",
    "shards",
    "pieces",
    "passes",
    "shelf",
    "bfloat16",
    "locality",
)  # recipes without them keep the hash that they always had


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides which weights come out (with the template pack and the software version)."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    simulator: dict = dataclasses.field(default_factory=dict)  # keywords of fiberifu.simulate.SimConfig
    survey: Survey | None = None  # a finite set of galaxies; None: new ones in every step
    shards: Shards | None = None  # records of files; None: simulated galaxies
    locality: Locality = Locality()  # remedies against what central fibres teach
    seed: int = 1
    steps: int = 4000
    batch: int = 32  # galaxies
    learning_rate: float = 1e-3
    final_rate: float = 0.02  # of the learning rate, at the end of the cosine
    warmup: int = 200  # steps
    weight_decay: float = 0.02
    clip: float = 20.0  # gradient norm
    ema: float = 0.998
    image_weight: float = 0.1
    redshift_weight: float = 0.05
    band_dropout: float = 0.08  # share of bands hidden, beyond those that are missing
    mixtures: int = 2000  # of SSPs, for the principal components of the continuum
    workers: int = 1  # simulating processes; 0 simulates in this one
    checkpoint_seconds: float = 120.0
    pieces: int = 1  # of a batch, with masks of their own: gradients add up over them, and ranks share them
    passes: int = 1  # how often a simulated galaxy is seen, in other orientations and behind other masks
    shelf: int = 64  # batches kept for the next pass
    bfloat16: bool = True  # products of attention and its networks on a GPU; a CPU computes in float32
    encoder_parts: int = 1  # of a piece, in which hidden tokens are left out of the encoder; 1: they are masked
    compile: bool = False  # attention blocks, by torch.compile
    picture_steps: int = 0  # between pictures of a held-out galaxy; 0: none

    def __post_init__(self):
        for name in ("batch", "pieces", "passes", "shelf", "encoder_parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; one or more are needed")
        if self.batch % self.pieces:
            raise ValueError(f"pieces: got {self.pieces}; a batch of {self.batch} galaxies needs equal ones")
        if self.shards is not None and (self.survey is not None or self.passes > 1):
            raise ValueError("shards: there is no [survey], and passes is 1, where galaxies are read from files")
        if self.shards is not None and self.locality.off_centre_weight != 1:
            raise ValueError("locality.off_centre_weight: records of files do not say how large galaxies are; use 1")
        if self.steps > MOST_STEPS:
            raise ValueError(f"steps: got {self.steps}; beyond {MOST_STEPS} galaxies are held out, use another seed")

    @classmethod
    def read(cls, path):
        """Read a TOML recipe.

        Raises
        ------
        FileNotFoundError, ValueError
            For a missing file, text that is not TOML, an unknown name or a value of the wrong type.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"recipe {path}: no such file")
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"recipe {path} is not TOML: {error}") from error
        known = {f.name: f for f in dataclasses.fields(cls)}
        if extra := sorted(set(values) - set(known)):
            raise ValueError(f"recipe {path}: unknown names {extra}; known: {sorted(known)}")
        for name, value in values.items():
            default = getattr(cls(), name)
            kind = (int, float) if isinstance(default, float) else type(default)
            truth = isinstance(value, bool) != isinstance(default, bool)  # which are int, to Python
            if name not in ("model", "survey", "shards", "locality") and (truth or not isinstance(value, kind)):
                raise ValueError(f"recipe {path}: {name}={value!r} should be a {type(default).__name__}")
        if "model" in values:
            defaults = json.loads(ModelConfig().to_json())
            values["model"] = ModelConfig.from_dict({**defaults, **values["model"]})
        for name, kind in (("survey", Survey), ("shards", Shards), ("locality", Locality)):
            if name in values:
                try:
                    values[name] = kind.from_dict(values[name])
                except ValueError as error:
                    raise ValueError(f"recipe {path}: {error}") from error
        if "survey" in values and (placed := sorted({"placement", "pair_fraction"} & set(values.get("simulator", {})))):
            raise ValueError(f"recipe {path}: simulator {placed} have no effect where [survey] places the fibres")
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"recipe {path}: {error}") from error

    def sha256(self):
        """Hash of all settings: a run resumes under its own recipe only."""
        settings = {k: v for k, v in dataclasses.asdict(self).items() if k not in UNHASHED}
        for name in NEWER:
            if getattr(self, name) == getattr(type(self), name):
                del settings[name]
        if self.survey is not None and self.survey.scatter:  # newer than surveys
            del settings["survey"]["scatter"]
        if self.shards is not None:  # a store is known by the sha256 of its records, which the run's state holds
            settings["shards"] = self.shards.hashed()
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
