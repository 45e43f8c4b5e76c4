"""What is kept of a galaxy and its fibres, and how: ``float32 -> encode -> float16 with scales -> decode -> float32``.

Shapes: B galaxies, F fibres, C bands, S x S pixels, N spectral pixels.
"""

import dataclasses

import numpy as np

__all__ = ["FIBER_FIELDS", "GALAXY_FIELDS", "SCALED", "SPLITS", "Layout", "compress", "decode", "encode"]

#: Sides of the split of the sky (`fiberifu.train.split`); what lies between serves neither.
SPLITS = ("train", "held_out", "between")

#: name -> (dtype, shape of one row). Little-endian, as on the disk.
GALAXY_FIELDS = {
    "image": ("<f2", "CSS"),  # nanomaggy / arcsec2, dereddened, at the common PSF
    "image_scale": ("<f4", "C"),
    "sigma": ("<f2", "CSS"),  # its noise before PSF matching; inf where nothing was measured
    "sigma_scale": ("<f4", "C"),
    "present": ("|b1", "C"),
    "psf_fwhm": ("<f4", ""),  # arcsec
    "first_fiber": ("<i8", ""),  # row of the galaxy's first fibre; they follow one another
    "n_fibers": ("<i4", ""),
    "split": ("|u1", ""),  # place in SPLITS
    "ra": ("<f8", ""),  # of the stamp's centre, ICRS, degrees
    "dec": ("<f8", ""),
    "ebv": ("<f4", ""),  # of the Milky Way, by which image and spectra were dereddened
}
FIBER_FIELDS = {
    "flux": ("<f2", "N"),  # 1e-17 erg/s/cm2/A, dereddened, re-anchored to the image's flux in the aperture
    "flux_scale": ("<f4", ""),
    "ivar": ("<f2", "N"),
    "ivar_scale": ("<f4", ""),
    "offset": ("<f4", "2"),  # east, north of the stamp's centre, arcsec
    "redshift": ("<f8", ""),
    "sigma_z": ("<f4", ""),
    "anchor": ("<f4", ""),  # factor at 6500 A by which the survey's flux was multiplied
    "targetid": ("<i8", ""),
}
#: Which fields have a scale beside them, and over how many of their last axes it reaches.
SCALED = {"image": 2, "sigma": 2, "flux": 1, "ivar": 1}
LARGEST = 6e4  # a float16 ends at 65,504


@dataclasses.dataclass(frozen=True)
class Layout:
    """What all records of a store have in common.

    Parameters
    ----------
    bands : tuple of str
    stamp : int
        Pixels on a side.
    pixel_scale, aperture : float
        arcsec; side of a pixel and diameter of the fibre.
    wave_start, wave_step : float
        Angstrom, vacuum.
    wave_size : int
    """

    bands: tuple = ("g", "r", "i", "z")
    stamp: int = 128
    pixel_scale: float = 0.262
    aperture: float = 1.5
    wave_start: float = 3600.0
    wave_step: float = 0.8
    wave_size: int = 7781

    def __post_init__(self):
        object.__setattr__(self, "bands", tuple(self.bands))
        if not self.bands or len(set(self.bands)) < len(self.bands):
            raise ValueError(f"bands: got {self.bands}; give one or more, each once")
        if self.stamp < 16:
            raise ValueError(f"stamp: got {self.stamp}; 16 pixels or more are needed")

    def shape(self, name):
        """Shape of one row of a field."""
        sizes = {"C": len(self.bands), "S": self.stamp, "N": self.wave_size, "2": 2}
        return tuple(sizes[letter] for letter in (GALAXY_FIELDS | FIBER_FIELDS)[name][1])

    @property
    def wave(self):
        """Wavelengths (N,) of the spectral pixels, Angstrom."""
        return self.wave_start + self.wave_step * np.arange(self.wave_size)


def encode(values, axes):
    """Numbers as float16, with a scale for each row of the last ``axes`` axes.

    The scale is the median size of what is not 0 (the noise of an image, the continuum of a spectrum), or larger
    where the largest would not fit. The error is at most 4.9e-4 of each number, or 3e-8 of the scale if that is more:
    below the noise up to a S/N of 2000 in a pixel.

    Parameters
    ----------
    values : ndarray (..., shape of a row)
        Finite, or inf.
    axes : int

    Returns
    -------
    half : ndarray of float16
    scale : ndarray of float32
        ``values = half * scale``.

    Raises
    ------
    ValueError
        If there is a nan.
    """
    values = np.asarray(values, np.float32)
    rows = values.reshape(*values.shape[: values.ndim - axes], -1)
    if np.isnan(rows).any():
        raise ValueError("values: nan; what was not measured has sigma inf, or ivar 0")
    size = np.where(np.isfinite(rows) & (rows != 0), np.abs(rows), np.nan)
    scale = np.ones(rows.shape[:-1], np.float32)
    some = np.isfinite(size).any(-1)
    if some.any():
        seen = size[some]
        scale[some] = np.maximum(np.nanmedian(seen, -1), np.nanmax(seen, -1) / LARGEST)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    return (rows / scale[..., None]).astype(np.float16).reshape(values.shape), scale


def decode(half, scale):
    """The numbers of `encode`, float32."""
    half, scale = np.asarray(half, np.float32), np.asarray(scale, np.float32)
    return half * scale.reshape(scale.shape + (1,) * (half.ndim - scale.ndim))


def compress(galaxy):
    """A galaxy with what is kept in half precision so, and the scales beside it: half of the memory.

    Parameters
    ----------
    galaxy : dict
        As for `~fiberifu.train.shards.write_shard`; what is compressed already is returned as it is.
    """
    if "image_scale" in galaxy:
        return galaxy
    out = dict(galaxy, fibers=dict(galaxy["fibers"]))
    for key, axes in SCALED.items():
        part = out if key in GALAXY_FIELDS else out["fibers"]
        part[key], part[f"{key}_scale"] = encode(part[key], axes)
    return out
