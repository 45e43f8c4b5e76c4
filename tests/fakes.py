# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A prediction without a network, for the tests of figures and of the command line: analytic inside."""

from types import SimpleNamespace

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData
from astropy.table import QTable
from astropy.wcs import WCS

from fiberifu.cube import cube_wcs, make_cube, make_spectra
from fiberifu.flags import Flag
from fiberifu.lines import DAPMask, LineMaps, line_table
from fiberifu.provenance import Provenance

CENTER = SkyCoord(150.0, 2.0, unit="deg")
EW = {
    "Ha": 40,
    "Hb": 8,
    "O3_5007": 6,
    "O3_4959": 2,
    "N2_6583": 15,
    "N2_6548": 5,
    "O2_3726": 12,
    "O2_3729": 17,
}


def sky_wcs(size=64, scale=0.5, east_left=False, angle=0.0):
    """TAN WCS with `CENTER` in the middle of a square image."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit, wcs.wcs.radesys = ["RA---TAN", "DEC--TAN"], ["deg", "deg"], "ICRS"
    wcs.wcs.crval, wcs.wcs.crpix = [CENTER.ra.deg, CENTER.dec.deg], [(size + 1) / 2] * 2
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    flip = np.diag([-1 if east_left else 1, 1])
    wcs.wcs.cd = scale / 3600 * flip @ np.array([[cos, -sin], [sin, cos]])
    wcs.wcs.set()
    return wcs


def galaxy(east, north):
    """Surface brightness and H-alpha equivalent width of a spiral whose blue knot lies to the North-East."""
    radius, angle = np.hypot(east, north), np.arctan2(north, east)
    arms = np.cos(2 * (angle - 1.2 * np.log(radius + 1))) ** 4
    knot = np.exp(-((east - 5) ** 2 + (north - 5) ** 2) / 2)
    light = 3 * np.exp(-(radius**2) / 2) + np.exp(-radius / 5) * (0.5 + arms) + 0.6 * knot
    return light, 0.1 + arms * radius / 8 + 3 * knot


def prepared_image(size=64, scale=0.5):
    """What plots use of a `fiberifu.image.PreparedImage`: grz, East with the column."""
    wcs = sky_wcs(size, scale)
    y, x = np.indices((size, size))
    light, blue = galaxy((x - (size - 1) / 2) * scale, (y - (size - 1) / 2) * scale)
    noise = 0.02 * np.random.default_rng(1).standard_normal((3, size, size))
    sb = np.stack([light * (0.5 + 0.3 * blue), light * (0.9 + 0.2 * blue), light * 1.4]) + noise
    return SimpleNamespace(sb=sb, wcs=wcs, bands=("g", "r", "z"), present=np.ones(3, bool), center=CENTER)


def image_of(prepared):
    """The same as a mapping of `CCDData`."""
    return {band: CCDData(plane, unit=u.nmgy, wcs=prepared.wcs) for band, plane in zip("grz", prepared.sb, strict=True)}


class FakePrediction:
    """The public face of `fiberifu.Prediction` over `galaxy`."""

    bad_lines = ()
    oddity = None

    def __init__(self, positions, wcs=None, *, redshift=0.03, step=8.0, image=None):
        self.positions, self.wcs, self.redshift, self.shape = positions, wcs, redshift, positions.shape
        self.wavelength = np.arange(3600, 9824, step) * u.AA
        self.aperture, self.beam, self.card = 1.5 * u.arcsec, 1.6 * u.arcsec, "# fake\n\nFor tests."
        self.provenance = Provenance(model_id="fake", redshift=redshift, seed=0)
        self.image = prepared_image() if image is None else image
        east, north = (offset.to_value(u.arcsec) for offset in CENTER.spherical_offsets_to(positions))
        self._light, self._blue = galaxy(east, north)
        self.flags = np.where(np.hypot(east, north) > 9, int(Flag.FAR_FROM_TRAINING), 0) | int(Flag.VELOCITY_PRIOR)

    @classmethod
    def cube_of(cls, n=16, spaxel=1.0, **keywords):
        wcs = cube_wcs(CENTER, (n, n), spaxel * u.arcsec, [5000] * u.AA).celestial
        y, x = np.indices((n, n))
        return cls(wcs.pixel_to_world(x, y), wcs, **keywords)

    def bright(self, nsigma=5.0):
        return self._light > 0.1

    def line_maps(self, lines="strong"):
        keys = [str(key) for key in line_table(lines)["key"]]
        ew = np.stack([EW.get(key, 2.0) * self._blue for key in keys])
        flux, sigma = ew * self._light, 0.15 * ew * self._light + 0.3
        mask = np.where(np.isin(keys, self.bad_lines), int(DAPMask.DONOTUSE), 0)
        return LineMaps(
            keys,
            flux,
            sigma,
            ew,
            0.2 * ew + 0.3,
            np.broadcast_to(self._light, ew.shape),
            mask=mask.reshape(-1, *[1] * len(self.shape)),
            redshift=self.redshift,
            wcs=self.wcs,
            positions=None if self.wcs is not None else self.positions,
            provenance=self.provenance,
        )

    def _moments(self):
        wave = self.wavelength.value / (1 + self.redshift)
        shape = (wave / 5500) ** (-0.5 - np.clip(self._blue, 0, 2)[..., None]) * (1 - 0.35 * (wave < 4000))
        flux = self._light[..., None] * shape
        table, maps = line_table("strong"), self.line_maps()
        for key, centre in zip(table["key"], table["wavelength"].value, strict=True):
            width = max(2.5, 0.5 * np.diff(wave)[0])
            profile = np.exp(-0.5 * ((wave - centre) / width) ** 2) / width / np.sqrt(2 * np.pi)
            flux = flux + maps.flux[str(key)].data[..., None] * profile
        mask = np.broadcast_to(wave > 9480, flux.shape)
        return flux, (0.06 * flux + 0.02) ** -2.0, mask

    def _meta(self):
        return {
            "provenance": self.provenance,
            "flags": self.flags,
            "redshift": self.redshift,
            "prediction": self,
        }

    def cube(self):
        wcs = cube_wcs(CENTER, self.shape, abs(self.wcs.wcs.cdelt[1]) * u.deg, self.wavelength)
        return make_cube(*(np.moveaxis(x, -1, 0) for x in self._moments()), wcs=wcs, meta=self._meta())

    def spectrum(self):
        return make_spectra(*self._moments(), wavelength=self.wavelength, positions=self.positions, meta=self._meta())

    @property
    def self_check(self):
        rows = [("g", 10.0, 9.9, -0.011, 0.04, 1.2, 9), ("r", 20.0, 20.1, 0.005, 0.02, 0.9, 9)]
        table = QTable(rows=rows, names=("band", "observed", "predicted", "residual", "scatter", "pull", "n"))
        table["residual"].unit = table["scatter"].unit = u.mag
        return QTable(table)

    def write(self, path, *, overwrite=False):
        product, kind = (self.spectrum(), "spectra") if self.wcs is None else (self.cube(), "cube")
        product.write(path, format=f"fiberifu {kind}", overwrite=overwrite)
