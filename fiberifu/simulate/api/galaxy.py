# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A `Galaxy` with units: drawn at random, with the properties that one chooses, and its true line maps."""

import copy
import dataclasses
import functools
import math

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord

from ...constants import C_KMS
from ...instrument import grid_wcs
from ...lines import LineMaps
from ...provenance import Provenance
from ..chosen import choose, consequences
from ..gas import LINE_WAVELENGTH, LINES
from ..identifiers import torch_version
from ..milky_way import sky_position
from ..photometry import Photometry
from ..recipe import Draws
from ..scene import SimConfig
from ..survey import STRATA, Simulator
from ..templates import analytic_template_pack
from .arguments import fwhm_arcsec, plain_number, radius_choice, true_or_false, unitless_number, whole_number

__all__ = ["Galaxy", "check_galaxy", "true_line_maps"]

_NAME = "fiberifu.simulate"


@functools.lru_cache(maxsize=1)
def _default_simulator():
    return Simulator(analytic_template_pack(), SimConfig(jitter=0.0))


class Galaxy:
    """One simulated galaxy, drawn at random; some of its properties may be chosen.

    Parameters
    ----------
    seed, index : int
        Galaxy ``index`` of the universe ``seed``.
    redshift : float, optional
        0.003 to 0.6; the galaxy keeps its size in kpc.
    log_mass : float, optional
        log10 of the mass of stars ever formed, Msun. Size, rotation and star formation follow as the recipe's
        relations do.
    star_formation_rate : `~astropy.units.Quantity`, optional
        Msun / yr, over 1e8 yr.
    effective_radius : `~astropy.units.Quantity`, optional
        Of the disc, a length or an angle; at most 12.5 arcsec.
    inclination, position_angle : `~astropy.units.Quantity`, optional
        0 is face-on; of the receding major axis, from North to East.
    labels : dict of str to bool, optional
        Whether it is ``quenched``, ``green``, ``post_starburst``, a ``merger``, a ``spheroid``, ``edge_on``,
        ``flocculent``, has a ``neighbour``, an ``agn``, an ``outflow``, a ``ring``, ``off_centre_hii`` regions,
        ``decoupled`` gas. All that the recipe makes of it follows, and so do other labels: a spheroid is quenched,
        a star formation rate of the main sequence makes a galaxy that is not. ValueError where two choices exclude
        each other.
    galactic_ebv : float
        Dust of the Milky Way before it, E(B-V) in mag on the SFD scale.
    pack : dict, optional
        Template pack (`load_template_pack`); by default the small analytic one, for tests and pictures only.
    simulator : Simulator, optional
        Instead of ``pack``: one for many galaxies. It is used with the galaxy in the middle.

    Examples
    --------
    >>> import astropy.units as u
    >>> from fiberifu.simulate import Galaxy
    >>> galaxy = Galaxy(seed=1, redshift=0.03, inclination=60 * u.deg)
    >>> galaxy.redshift, galaxy.inclination
    (0.03, <Quantity 60. deg>)
    """

    def __init__(
        self,
        seed=0,
        index=0,
        *,
        redshift=None,
        log_mass=None,
        star_formation_rate=None,
        effective_radius=None,
        inclination=None,
        position_angle=None,
        labels=None,
        galactic_ebv=0.0,
        pack=None,
        simulator=None,
    ):
        if pack is not None and simulator is not None:
            raise ValueError("pack, simulator: got both; give one")
        redshift, log_mass = (
            unitless_number(redshift, "redshift"),
            unitless_number(log_mass, "log_mass", "log10 of solar masses, a"),
        )
        if redshift is not None and not 0.003 <= redshift <= 0.6:
            raise ValueError(f"redshift: got {redshift}; the templates reach from 0.003 to 0.6")
        galactic_ebv = plain_number(galactic_ebv, u.mag, "galactic_ebv", plain=True)
        if not 0 <= galactic_ebv < 2:
            raise ValueError(f"galactic_ebv: got {galactic_ebv}; E(B-V) in mag, 0 to 2, is needed")
        self.seed, self.index, self.galactic_ebv = (
            whole_number(seed, "seed"),
            whole_number(index, "index"),
            galactic_ebv,
        )
        if simulator is None:
            simulator = _default_simulator() if pack is None else Simulator(pack)
        self._simulator = copy.copy(simulator)
        self._simulator.config = dataclasses.replace(simulator.config, jitter=0.0)
        self._changes = {
            "redshift": redshift,
            "log_mass": log_mass,
            "sfr": plain_number(star_formation_rate, u.Msun / u.yr, "star_formation_rate"),
            **radius_choice(effective_radius),
            "inclination": plain_number(inclination, u.deg, "inclination"),
            "pa": plain_number(position_angle, u.deg, "position_angle"),
            "labels": true_or_false(labels),
        }
        draw, one = type(simulator)._draw, (self.seed, [self.index], self._simulator.device)
        keys = ("redshift", "log_mass", "sfr", "inclination", "labels")
        plain = draw(self._simulator, Draws(*one))
        force = consequences(plain, **{key: self._changes[key] for key in keys})
        if force and redshift is None:  # another kind of galaxy stands where this one would
            self._changes["redshift"] = plain["redshift"].item()

        def drawn(d):
            d.force = force
            return choose(draw(self._simulator, d), **self._changes)

        self._simulator._draw = drawn
        g = drawn(Draws(*one))
        self._parameters = {key: value[0].item() for key, value in g.items()}

    def __repr__(self):
        return f"<Galaxy {self.seed}-{self.index}: z = {self.redshift:.4f}, {', '.join(self.labels) or 'ordinary'}>"

    @functools.cached_property
    def scene(self):
        """The component maps, as `Simulator.scene` makes them: for one's own instruments."""
        return self._simulator.scene(self.seed, [self.index])

    @functools.cached_property
    def photometry(self):
        """`Photometry` of the galaxy without the Milky Way's dust."""
        return Photometry(self._simulator, self.scene)

    @property
    def redshift(self):
        """Systemic."""
        return round(self._parameters["redshift"], 7)

    @property
    def log_mass(self):
        """log10 of the mass of stars ever formed, Msun."""
        return self._parameters["log_mass"]

    @property
    def star_formation_rate(self):
        """Over 1e8 yr."""
        return 10 ** self._parameters["log_sfr"] * u.Msun / u.yr

    @property
    def effective_radius(self):
        """Of the disc, along the major axis."""
        return self._parameters["re"] * u.arcsec

    @property
    def inclination(self):
        """0 is face-on."""
        return round(self._parameters["inclination"], 4) * u.deg

    @property
    def position_angle(self):
        """Of the receding major axis, from North to East."""
        return round((90 - math.degrees(self._parameters["pa"])) % 360, 4) % 360 * u.deg

    @property
    def magnitudes(self):
        """Total AB magnitudes by band, without the Milky Way's dust."""
        flux = self.photometry.flux[0].cpu().numpy()
        return {band: float(22.5 - 2.5 * np.log10(f)) * u.ABmag for band, f in zip("griz", flux, strict=True)}

    @property
    def labels(self):
        """What sets it apart: "agn", "ring", "edge_on" ... (`fiberifu.simulate.survey.STRATA`, and "flocculent")."""
        return tuple(name for name in (*STRATA, "flocculent") if self._parameters.get(name))

    @property
    def center(self):
        """Where it is on the sky; invented, and always the same."""
        return SkyCoord(*sky_position(self.seed, self.index), unit="deg")

    @property
    def name(self):
        return f"SIM {self.seed}-{self.index}"

    def provenance(self):
        """Where all comes from that is made of it, and the cards of files; GALAXY is its number within the seed."""
        return Provenance(
            datatype="SIMULATED", model_id=_NAME, redshift=self.redshift, redshift_source="simulation",
            seed=self.seed, ebv=self.galactic_ebv,
            extra={"TORCHV": torch_version(), "PACKSHA": self._simulator.pack_sha256, "GALAXY": self.index},
        )  # fmt: skip

    def line_maps(self, *, spaxel=0.5 * u.arcsec, size=20 * u.arcsec, psf=2.5 * u.arcsec):
        """True emission lines in spaxels around it, seen through a Moffat PSF of FWHM ``psf``.

        Returns
        -------
        `~fiberifu.lines.LineMaps`
            Without errors and without the Milky Way's dust (``extinction_corrected``); the dispersion is that of the
            gas alone.
        """
        step, width, fwhm = (
            plain_number(spaxel, u.arcsec, "spaxel"),
            plain_number(size, u.arcsec, "size"),
            fwhm_arcsec(psf, "psf"),
        )
        if not 0 < step <= width:
            raise ValueError(f"spaxel, size: got {spaxel} and {size}; 0 < spaxel <= size is needed")
        truth = self._simulator.spaxel_truth(self.scene, step, width, fwhm)
        truth = {
            key: np.moveaxis(truth[key].cpu().numpy(), (0, 1), (-2, -1))[..., ::-1]
            for key in ("line_flux", "line_ew", "velocity", "sigma")
        }
        shape = truth["velocity"].shape
        return true_line_maps(self, truth, grid_wcs(self.center, shape[::-1], spaxel), 0.0)


def check_galaxy(galaxy):
    if not isinstance(galaxy, Galaxy):
        raise ValueError(f"galaxy: got {galaxy!r:.60}; a `fiberifu.simulate.Galaxy` is needed")


def true_line_maps(galaxy, truth, wcs, lsf):
    """Truth (L, ny, nx) as `LineMaps`; ``lsf`` a function of wavelength -> sigma [A], or 0."""
    observed = np.array([LINE_WAVELENGTH[line] for line in LINES]) * (1 + galaxy.redshift)
    sigma = np.broadcast_to(lsf(observed) if callable(lsf) else lsf, observed.shape)
    instrument = np.broadcast_to((sigma / observed * C_KMS)[:, None, None], truth["line_flux"].shape)
    flux, ew = truth["line_flux"], truth["line_ew"]
    with np.errstate(divide="ignore", invalid="ignore"):  # the pseudo-continuum that EWs are of, in the observed frame
        continuum = np.where(ew > 0, flux / ew / (1 + galaxy.redshift), np.nan)
    return LineMaps(
        LINES, flux, np.zeros(flux.shape), ew, None, continuum, redshift=galaxy.redshift,
        velocity=truth["velocity"], dispersion=np.hypot(truth["sigma"], instrument),
        instrumental_dispersion=instrument, wcs=wcs, provenance=galaxy.provenance().replace(extinction_corrected=True),
    )  # fmt: skip
