"""The architecture as a frozen dataclass, stored as JSON beside the weights."""

import dataclasses
import json

__all__ = ["ModelConfig"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the shapes of a `~fiberifu.model.FiberMAE`.

    Lengths on the sky are in arcsec, wavelengths in vacuum angstrom. Larger models are larger numbers here,
    never other code.
    """

    name: str = "nano"
    bands: tuple[str, ...] = ("g", "r", "i", "z")
    stamp: int = 128  # pixels on a side of the square image stamp
    pixel_scale: float = 0.262  # arcsec
    patch: int = 16  # pixels on a side of an image patch
    pool: int = 2  # pixels averaged on a side before a patch is embedded
    aperture: float = 1.5  # diameter of the training aperture, arcsec
    wave_start: float = 3600.0  # the spectrograph's grid, angstrom
    wave_step: float = 0.8
    wave_size: int = 7781
    spectrum_patch: int = 31  # pixels
    rest_start: float = 2250.0  # the rest-frame basis: logarithmic, d ln(lambda) = rest_step
    rest_step: float = 1e-4
    rest_size: int = 15309
    n_continuum: int = 14  # mean shape + principal components
    components: int = 3  # of the mixture
    rank: int = 3  # low-rank factors shared by all coefficients
    width: int = 112
    depth: int = 4
    heads: int = 4
    query_blocks: int = 2
    local_width: int = 208
    local_grid: int = 5  # points on a side of the fine grid read at the query
    local_step: float = 0.524  # arcsec between them
    surround_step: float = 1.572  # arcsec between the points of the coarse grid
    redshift_min: float = 0.003
    redshift_max: float = 0.6
    redshift_bins: int = 40

    def __post_init__(self):
        if self.stamp % self.patch or self.patch % self.pool:
            raise ValueError(f"stamp={self.stamp}, patch={self.patch}, pool={self.pool}: each must divide the former")
        if self.wave_size % self.spectrum_patch:
            raise ValueError(f"spectrum_patch={self.spectrum_patch} must divide wave_size={self.wave_size}")
        if self.width % (4 * self.heads):
            raise ValueError(f"width={self.width} must be a multiple of 4 x heads={self.heads} (two rotary axes)")

    def to_json(self):
        """The configuration as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_dict(cls, values):
        """Build from a mapping, refusing names it does not know.

        Raises
        ------
        ValueError
            For an unknown or missing name.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        if set(values) != known:
            extra, missing = sorted(set(values) - known), sorted(known - set(values))
            raise ValueError(f"model configuration: unknown names {extra}, missing names {missing}")
        return cls(**{**values, "bands": tuple(values["bands"])})
