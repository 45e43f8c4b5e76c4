"""A recipe: one TOML file per trained model, read into a dataclass that refuses what it does not know."""

import dataclasses
import hashlib
import json
import tomllib
from pathlib import Path

from ..model import ModelConfig

__all__ = ["Recipe"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides which weights come out (with the template pack and the software version)."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    simulator: dict = dataclasses.field(default_factory=dict)  # keywords of fiberifu.simulate.SimConfig
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
            if name != "model" and not isinstance(value, (int, float) if isinstance(default, float) else type(default)):
                raise ValueError(f"recipe {path}: {name}={value!r} should be a {type(default).__name__}")
        if "model" in values:
            defaults = json.loads(ModelConfig().to_json())
            values["model"] = ModelConfig.from_dict({**defaults, **values["model"]})
        return cls(**values)

    def sha256(self):
        """Hash of all settings: a run resumes under its own recipe only."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()
