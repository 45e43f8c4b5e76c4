"""An imager: what a camera and a coaddition make of galaxies, stars and the sky.

``light at its own PSF, sky, read noise -> exposures resampled and coadded -> BandImages``. The camera is physical:
the noise follows from exposure times, zero points and sky brightness.
"""

import dataclasses
import math

import numpy as np
import torch

from .filters import filter_curve
from .milky_way import BAND_EXTINCTION, galactic_ebv, sky_position
from .observe import BETA, convolve, frequencies, moffat_transfer
from .products import BandImages
from .streams import stream

__all__ = ["BASS_MZLS", "DECALS", "DES", "Camera", "observe_field", "observe_images"]

# Maskbits of Legacy Surveys DR9, https://www.legacysurvey.org/dr9/bitmasks: no i band has bits of its own there; the
# bits of DR10 are taken.
SATURATED = {"g": 1 << 2, "r": 1 << 3, "i": 1 << 14, "z": 1 << 4}
ALL_BAD = {"g": 1 << 5, "r": 1 << 6, "i": 1 << 15, "z": 1 << 7}
_BANDS = ("g", "r", "i", "z")


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera and a survey's coadds; one entry per band.

    Parameters
    ----------
    name : str
    bands : tuple of str
        Of g, r, i, z.
    zero_point : tuple of float
        AB magnitude that gives one electron per second.
    sky : tuple of float
        Sky brightness, mag / arcsec2.
    seconds : tuple of float
        Of one exposure.
    exposures : tuple of int
        Median number in a coadd.
    seeing : tuple of float
        Median FWHM of the coadd's PSF, arcsec.
    full_well : float
        Electrons in a pixel at saturation.
    read_noise : float
        Electrons per pixel and exposure.
    depth_scatter : float
        1-sigma scatter of the exposure time between fields, dex.
    curves : tuple of str
        Names of the bands' curves in the speclite package, an optional dependency; by default the curves of the
        template pack, DECam's. Foreground stars and the dust of the Milky Way are those of DECam's bands.
    layer : {'south', 'north'}
        Of the Legacy Surveys, for files.
    """

    name: str
    bands: tuple = ("g", "r", "z")
    zero_point: tuple = (26.610, 26.818, 26.484)
    sky: tuple = (22.04, 20.91, 18.46)
    seconds: tuple = (70.0, 50.0, 100.0)
    exposures: tuple = (3, 3, 3)
    seeing: tuple = (1.29, 1.18, 1.11)
    full_well: float = 150_000.0
    read_noise: float = 7.0
    depth_scatter: float = 0.08
    curves: tuple = ()
    layer: str = "south"

    def __post_init__(self):
        unknown = [band for band in self.bands if band not in _BANDS]
        if unknown or not self.bands:
            raise ValueError(f"bands: got {self.bands}, use one or more of {_BANDS}")
        for key in ("zero_point", "sky", "seconds", "exposures", "seeing"):
            if len(getattr(self, key)) != len(self.bands):
                raise ValueError(f"{key}: got {getattr(self, key)}, one value for each of the bands {self.bands}")
        if len(self.curves) not in (0, len(self.bands)):
            raise ValueError(f"curves: got {self.curves}, none or one for each of the bands {self.bands}")
        if self.layer not in ("south", "north"):
            raise ValueError(f"layer: got {self.layer!r}, use 'south' or 'north'")

    @property
    def filters(self):
        """Names of the filters by band, as in files: "DECam g", "BASS g" ..."""
        names = [name.replace("-", " ") for name in self.curves] or [f"DECam {band}" for band in self.bands]
        return dict(zip(self.bands, names, strict=True))

    def electrons(self, exposures=None):
        """Photo-electrons (C,) per nanomaggy in the coadd."""
        exposures = np.asarray(self.exposures if exposures is None else exposures, float)
        return 10 ** (0.4 * (np.array(self.zero_point) - 22.5)) * np.array(self.seconds) * exposures

    def pixel_sigma(self, pixel=0.262, exposures=None):
        """1-sigma of sky and read noise in a pixel (C,), nanomaggy, before resampling."""
        exposures = np.asarray(self.exposures if exposures is None else exposures, float)
        electrons = self.electrons(exposures)
        sky = 10 ** (0.4 * (22.5 - np.array(self.sky))) * pixel**2 * electrons
        return np.sqrt(sky + exposures * self.read_noise**2) / electrons


#: DECam Legacy Survey: three passes; zero points and sky of legacypipe's DECam measurer, seeing of Dey+2019 (AJ 157,
#: 168). Depths come out as 24.5, 24.0, 23.0 (5 sigma, point source).
DECALS = Camera("DECaLS")
#: Dark Energy Survey in Legacy Surveys DR9: ten exposures of 90 s (Abbott+2018, ApJS 239, 18).
DES = Camera("DES", seconds=(90.0, 90.0, 90.0), exposures=(9, 10, 10), seeing=(1.12, 0.96, 0.84))
#: The northern Legacy Surveys, BASS in g and r and MzLS in z, through their own curves (speclite): broader PSFs than in
#: the south but for z (Dey+2019). Zero points and sky are the nominal ones of legacyzpts; exposure times are a choice.
#: Depths come out as 24.2, 23.7, 23.2.
BASS_MZLS = Camera(
    "BASS+MzLS",
    zero_point=(25.97, 25.80, 26.552),
    sky=(22.10, 21.07, 18.46),
    seconds=(120.0, 120.0, 80.0),
    exposures=(3, 3, 3),
    seeing=(1.61, 1.47, 1.01),
    curves=("BASS-g", "BASS-r", "MzLS-z"),
    layer="north",
)


def lanczos_transfer(shape, device="cpu"):
    """Amplitude transfer (H, W // 2 + 1) of noise in coadds that were resampled with Lanczos-3 kernels.

    Root of the power spectrum, averaged over the phases of pixels of many exposures. White noise of unit variance
    keeps 0.80 of it; neighbours correlate with 0.11, diagonal ones with 0.013, those two and three pixels away with
    -0.076 and 0.027: in a DR9 coadd 0.82, 0.12, 0.019, -0.07 and 0.034 are measured.
    """

    def power(n, real):
        k = torch.fft.rfftfreq(n, device=device) if real else torch.fft.fftfreq(n, device=device)
        phase = (torch.arange(16, device=device) + 0.5) / 16 - 0.5
        x = torch.arange(-4, 5, device=device)[None] - phase[:, None]
        kernel = torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)
        kernel = kernel / kernel.sum(1, keepdim=True)
        wave = torch.exp(-2j * math.pi * k[:, None] * torch.arange(-4, 5, device=device))
        return (kernel.to(wave.dtype) @ wave.T).abs().square().mean(0)

    return (power(shape[0], False)[:, None] * power(shape[1], True)).sqrt()


def _add(canvas, stamp, row, column):
    """Add ``stamp`` (C, h, w) to ``canvas`` (C, H, W) with its first pixel at (row, column); what overhangs is lost."""
    h, w = stamp.shape[-2:]
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + h, canvas.shape[-2]), min(column + w, canvas.shape[-1])
    if top < bottom and left < right:
        canvas[:, top:bottom, left:right] += stamp[:, top - row : bottom - row, left - column : right - column]


def _stars(rng, size, pixel, density):
    """Foreground stars: east, north (arcsec), magnitudes (n, 4) in g, r, i, z.

    Counts grow as 10^(0.2 r) from r = 12 to 20; ``density`` is their number per arcmin2: about 0.6 at high Galactic
    latitude. Colours are a choice: the stellar locus from g - r = 0.4 to 1.4.
    """
    n = rng.poisson(density * (size * pixel / 60) ** 2)
    half = size * pixel / 2
    east, north, u, v = rng.uniform(size=(4, n))
    low, high = 10 ** (0.2 * 12.0), 10 ** (0.2 * 20.0)
    r = np.log10(low + (high - low) * u) / 0.2
    gr = 0.4 + v
    ri = np.clip(0.35 * gr, 0, None) + np.clip(gr - 1.3, 0, None) * 4
    return (2 * east - 1) * half, (2 * north - 1) * half, np.stack([r + gr, r, r - ri, r - 1.55 * ri], 1)


def _add_star(canvas, east, north, flux, fwhm, pixel):
    """A point source on (C, H, W), seen out to 12 arcsec plus 30 for very bright ones."""
    height, width = canvas.shape[-2:]
    x0, y0 = east / pixel + (width - 1) / 2, north / pixel + (height - 1) / 2
    reach = int((12 + 30 * (flux.max() > 300)) / pixel)
    rows = torch.arange(max(0, round(y0) - reach), min(height, round(y0) + reach + 1))
    columns = torch.arange(max(0, round(x0) - reach), min(width, round(x0) + reach + 1))
    if not len(rows) or not len(columns):
        return
    r2 = ((rows - y0)[:, None] ** 2 + (columns - x0) ** 2) * pixel**2
    for c, (amount, width_c) in enumerate(zip(flux, fwhm, strict=True)):
        alpha = width_c / (2 * math.sqrt(2 ** (1 / BETA) - 1))
        peak = amount * pixel**2 * (BETA - 1) / (math.pi * alpha**2)
        part = float(peak) * (1 + r2.float() / float(alpha) ** 2) ** -BETA
        canvas[c, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += part.to(canvas.device)


def _conditions(camera, rng, noise):
    """Number of exposures and PSF (C,) of one field."""
    c = len(camera.bands)
    common, own, depth = rng.standard_normal(), rng.standard_normal(c), rng.standard_normal(c)
    if not noise:
        return np.array(camera.exposures, float), np.array(camera.seeing, float)
    fwhm = np.array(camera.seeing) * np.exp(0.06 * common + 0.08 * np.clip(own, -2.5, 2.5))
    exposures = np.maximum(1, np.round(np.array(camera.exposures) * 10 ** (camera.depth_scatter * depth)))
    return exposures, fwhm


def _sharp(simulator, scene, i, camera):
    """Noiseless nanomaggies per pixel (C, H, W) of galaxy ``i`` of a scene, before any PSF."""
    n_map = scene["band"].shape[2]
    if camera.curves:
        band = simulator.band_through(scene, [filter_curve(name) for name in camera.curves])[i]
    else:
        band = scene["band"][i][[_BANDS.index(band) for band in camera.bands]]
    light = torch.einsum("cj,jyx->cyx", band, scene["stack"][i, :n_map])
    return light * simulator.config.pixel_scale**2


def _expose(light, camera, pixel, exposures, rng, noise):
    """Noise, saturation, bad columns and masks on noiseless nanomaggies (C, H, W) at their PSFs."""
    shape = light.shape[-2:]
    electrons = torch.as_tensor(camera.electrons(exposures), dtype=torch.float32, device=light.device)[:, None, None]
    sky = torch.as_tensor(camera.pixel_sigma(pixel, exposures), dtype=torch.float32, device=light.device)[:, None, None]
    variance = sky**2 + light.clamp(min=0) / electrons
    # the maps of inverse variance in DR9 know the photons of bright sources, and are those before resampling
    flux, ivar = light.clone(), 1 / variance
    if noise:
        transfer = lanczos_transfer(shape, light.device)
        for c in range(len(light)):
            white = torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32)).to(light.device)
            flux[c] += convolve(white * variance[c].sqrt(), transfer)
            flux[c] += _background(rng, shape, pixel, 0.06 * float(sky[c]), light.device)
    bits = torch.zeros(shape, dtype=torch.int16, device=light.device)
    # one exposure's electrons in one pixel
    well = light * electrons / torch.as_tensor(exposures, dtype=torch.float32, device=light.device)[:, None, None]
    for c, band in enumerate(camera.bands):
        full = well[c] > camera.full_well
        if full.any():
            bits[_grow(full, bleed=24)] |= _int16(SATURATED[band])
            flux[c] = torch.minimum(flux[c], camera.full_well * float(exposures[c]) / electrons[c])
        lost = _lost(rng, shape, exposures[c]) if noise else np.zeros(shape)
        share = torch.from_numpy(1 - lost.astype(np.float32) / float(exposures[c])).to(light.device)
        ivar[c] *= share.clamp(min=0)
        dead = share <= 0
        flux[c][dead], ivar[c][dead] = 0.0, 0.0
        bits[dead] |= _int16(ALL_BAD[band])
        if noise:  # fewer exposures, more noise
            thin = (share < 1) & ~dead
            extra = variance[c][thin] * (1 / share[thin] - 1)
            white = torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32)).to(light.device)
            flux[c][thin] += white[thin] * extra.sqrt()
    return flux, ivar, bits


def _int16(bit):
    return int(np.array(bit, np.uint16).view(np.int16))


def _grow(mask, bleed):
    """Saturated pixels with one neighbour around and, along columns, the trail that they bleed."""
    out = torch.zeros_like(mask)
    row, column = torch.nonzero(mask, as_tuple=True)
    height, width = mask.shape
    for side in (-1, 0, 1):
        for along in range(-bleed, bleed + 1):
            out[(row + along).clamp(0, height - 1), (column + side).clamp(0, width - 1)] = True
    return out


def _background(rng, shape, pixel, amplitude, device):
    """What sky subtraction leaves: smooth over about 30 arcsec, of rms ``amplitude``."""
    coarse = tuple(max(2, math.ceil(n * pixel / 30) + 1) for n in shape)
    knots = torch.from_numpy(rng.standard_normal(coarse, dtype=np.float32))[None, None].to(device)
    smooth = torch.nn.functional.interpolate(knots, size=tuple(shape), mode="bicubic", align_corners=True)[0, 0]
    return amplitude * smooth


def _lost(rng, shape, exposures):
    """How many of the exposures miss a pixel, to bad columns (dithered, so each hits one exposure) and cosmic rays."""
    lost = np.zeros(shape, np.int16)
    for _ in range(rng.poisson(exposures * shape[1] / 600)):
        lost[:, rng.integers(shape[1])] += 1
    n = rng.poisson(exposures * shape[0] * shape[1] / 4000)
    y, x, angle = rng.uniform(0, shape[0], n), rng.uniform(0, shape[1], n), rng.uniform(0, 2 * math.pi, n)
    length = rng.integers(2, 9, n)
    for step in range(9):
        more = length > step
        row, column = (y + step * np.sin(angle)).astype(int)[more], (x + step * np.cos(angle)).astype(int)[more]
        inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
        np.add.at(lost, (row[inside], column[inside]), 1)
    return np.minimum(lost, exposures)


def _product(light, camera, pixel, exposures, fwhm, rng, noise, center, ebv, meta):
    flux, ivar, bits = _expose(light, camera, pixel, exposures, rng, noise)

    def out(a):  # the simulator's columns grow to the East; those of images to the West
        return np.ascontiguousarray(a.cpu().numpy()[:, ::-1])

    return BandImages(
        flux={band: out(flux[c]) for c, band in enumerate(camera.bands)},
        ivar={band: out(ivar[c]) for c, band in enumerate(camera.bands)},
        maskbits=out(bits),
        psf_fwhm={band: float(fwhm[c]) for c, band in enumerate(camera.bands)},
        pixel_scale=pixel,
        center=center,
        ebv=ebv,
        meta=meta
        | {"camera": camera.name, "layer": camera.layer, "filters": camera.filters}
        | {"exposures": dict(zip(camera.bands, map(int, exposures), strict=True))},
    )


def observe_images(simulator, seed, indices, *, camera=DECALS, size=None, noise=True, stars=0.6, ebv=None, scene=None):
    """Coadds of galaxies, one field for each; every band has its own PSF, as a survey's coadds have.

    Parameters
    ----------
    simulator : Scenes
    seed : int
    indices : sequence of int
        Galaxies of ``seed``.
    camera : Camera
    size : int, optional
        Pixels on a side; by default the simulator's stamp. Galaxies are drawn on the simulator's own grid
        (stamp and margins); beyond it there is sky.
    noise : bool
        False leaves out noise, lost pixels and scatter of the conditions.
    stars : float
        Foreground stars per arcmin2, besides the simulator's own neighbours.
    ebv : float, optional
        E(B-V) of the Milky Way, SFD scale; by default drawn for each.
    scene : dict, optional
        `Scenes.scene` of these galaxies, if it is there already.

    Returns
    -------
    list of BandImages
        Their middle is that of the simulator's stamp, so that offsets from it are those of fibres.
    """
    indices = list(indices)
    scene = simulator.scene(seed, indices) if scene is None else scene
    out = []
    for i, index in enumerate(indices):
        out.append(
            observe_field(
                simulator, seed, [index], positions=[(0.0, 0.0)], camera=camera, noise=noise, stars=stars, ebv=ebv,
                size=simulator.config.stamp if size is None else size, scenes=[(scene, i)],
            )
        )  # fmt: skip
    return out


def observe_field(
    simulator, seed, indices, positions=None, *, camera=DECALS, size=3600, noise=True, stars=0.6, ebv=None, scenes=None
):
    """Coadds of one field, up to a brick of 3600 x 3600 pixels, with several galaxies.

    Parameters
    ----------
    simulator : Scenes
    seed : int
    indices : sequence of int
        Galaxies of ``seed``; the first one stands for the field's random numbers and place on the sky.
    positions : sequence of (east, north), optional
        Where the middles of their stamps are, arcsec from that of the field (to whole pixels); random by default.
    size : int
        Pixels on a side.
    camera, noise, stars, ebv
        As for `observe_images`.
    scenes : sequence of (dict, int), optional
        Scene, and number in it, of each galaxy, if they are there already.

    Returns
    -------
    BandImages
        ``meta["galaxies"]``: for each galaxy its index, redshift, and east, north of its centre (arcsec).
    """
    indices, pixel = list(indices), simulator.config.pixel_scale
    if size < 16:
        raise ValueError(f"size: got {size} pixels; 16 or more are needed")
    if positions is not None and len(positions) != len(indices):
        raise ValueError(f"positions: got {len(positions)} for {len(indices)} galaxies; give one for each")
    rng = stream(seed, indices[0], f"imager {camera.name}")
    exposures, fwhm = _conditions(camera, rng, noise)
    if positions is None:
        half = max(size - simulator.grid, 0) * pixel / 2
        positions = stream(seed, indices[0], "field").uniform(-half, half, (len(indices), 2))
    canvas = torch.zeros(len(camera.bands), size, size, device=simulator.device)
    transfer = moffat_transfer(
        frequencies(simulator.grid, pixel, simulator.device),
        torch.as_tensor(fwhm, dtype=torch.float32, device=simulator.device)[:, None, None],
    )
    ebv = galactic_ebv(seed, indices[0]) if ebv is None else float(ebv)
    dust = torch.tensor([10 ** (-0.4 * ebv * BAND_EXTINCTION[band]) for band in camera.bands], device=simulator.device)
    record = []
    for number, (index, (east, north)) in enumerate(zip(indices, positions, strict=True)):
        scene, i = (simulator.scene(seed, [index]), 0) if scenes is None else scenes[number]
        stamp = convolve(_sharp(simulator, scene, i, camera), transfer)
        shift = (size - simulator.grid) / 2
        row, column = round(shift + north / pixel), round(shift + east / pixel)
        _add(canvas, stamp * dust[:, None, None], row, column)
        g = scene["g"]
        record.append(
            {
                "index": index,
                "redshift": float(g["redshift"][i]),
                "east": (column - shift) * pixel + float(g["east"][i]),
                "north": (row - shift) * pixel + float(g["north"][i]),
            }
        )
    for east, north, mag in zip(*_stars(stream(seed, indices[0], "stars"), size, pixel, stars), strict=True):
        flux = 10 ** (0.4 * (22.5 - mag[[_BANDS.index(band) for band in camera.bands]]))
        _add_star(canvas, east, north, flux, fwhm, pixel)
    meta = {"seed": seed, "index": indices[0], "galaxies": record, "redshift": record[0]["redshift"]}
    meta["pack_sha256"] = getattr(simulator, "pack_sha256", None)
    center = sky_position(seed, indices[0])
    return _product(canvas, camera, pixel, exposures, fwhm, rng, noise, center, ebv, meta)
