# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The simulated universe for scripts, with units: a `Galaxy`, and what telescopes see of it.

``Galaxy -> Imager.decals().observe -> {band: CCDData}``, as `~fiberifu.VirtualIFU` takes it;
``-> FibreSpectrograph.desi().observe``, ``-> IFU.manga().observe -> Spectrum``, with true `~fiberifu.lines.LineMaps`.
"""

import copy
import dataclasses
import functools
import math
import operator

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData, InverseVariance

from ..constants import C_KMS
from ..cube import cube_wcs, make_cube, make_spectra
from ..instrument import grid_wcs
from ..lines import LineMaps
from ..provenance import Provenance
from .chosen import choose, consequences
from .fiber import ARMS, DESI, field_reach, observe_fibers
from .gas import LINE_WAVELENGTH, LINES
from .identifiers import FIBERS, torch_version
from .ifu import BUNDLES, MANGA, bundle_radius, observe_ifu
from .imager import DECALS, DES, observe_images
from .milky_way import sky_position
from .photometry import Photometry
from .recipe import Draws
from .scene import SimConfig
from .survey import STRATA, Simulator
from .templates import analytic_template_pack

__all__ = ["FibreSpectrograph", "Galaxy", "IFU", "Imager"]

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
        redshift, log_mass = _number(redshift, "redshift"), _number(log_mass, "log_mass", "log10 of solar masses, a")
        if redshift is not None and not 0.003 <= redshift <= 0.6:
            raise ValueError(f"redshift: got {redshift}; the templates reach from 0.003 to 0.6")
        galactic_ebv = _plain(galactic_ebv, u.mag, "galactic_ebv", plain=True)
        if not 0 <= galactic_ebv < 2:
            raise ValueError(f"galactic_ebv: got {galactic_ebv}; E(B-V) in mag, 0 to 2, is needed")
        self.seed, self.index, self.galactic_ebv = _count(seed, "seed"), _count(index, "index"), galactic_ebv
        if simulator is None:
            simulator = _default_simulator() if pack is None else Simulator(pack)
        self._simulator = copy.copy(simulator)
        self._simulator.config = dataclasses.replace(simulator.config, jitter=0.0)
        self._changes = {
            "redshift": redshift,
            "log_mass": log_mass,
            "sfr": _plain(star_formation_rate, u.Msun / u.yr, "star_formation_rate"),
            **_radius(effective_radius),
            "inclination": _plain(inclination, u.deg, "inclination"),
            "pa": _plain(position_angle, u.deg, "position_angle"),
            "labels": _labels(labels),
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
        return (90 - math.degrees(self._parameters["pa"])) % 360 * u.deg

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
        """The cards of files made of it."""
        return Provenance(
            datatype="SIMULATED", model_id=_NAME, redshift=self.redshift, redshift_source="truth", seed=self.seed,
            ebv=self.galactic_ebv,
            extra={"TORCHV": torch_version(), "PACKSHA": self._simulator.pack_sha256},
        )  # fmt: skip

    def line_maps(self, *, spaxel=0.5 * u.arcsec, size=20 * u.arcsec, psf=2.5 * u.arcsec):
        """True emission lines in spaxels around it, seen through a Moffat PSF of FWHM ``psf``.

        Returns
        -------
        `~fiberifu.lines.LineMaps`
            Without errors and without the Milky Way's dust (``extinction_corrected``); the dispersion is that of the
            gas alone.
        """
        step, width, fwhm = _plain(spaxel, u.arcsec, "spaxel"), _plain(size, u.arcsec, "size"), _fwhm(psf, "psf")
        if not 0 < step <= width:
            raise ValueError(f"spaxel, size: got {spaxel} and {size}; 0 < spaxel <= size is needed")
        truth = self._simulator.spaxel_truth(self.scene, step, width, fwhm)
        truth = {
            key: np.moveaxis(truth[key].cpu().numpy(), (0, 1), (-2, -1))[..., ::-1]
            for key in ("line_flux", "line_ew", "velocity", "sigma")
        }
        shape = truth["velocity"].shape
        return _line_maps(self, truth, grid_wcs(self.center, shape[::-1], spaxel), 0.0)


def _plain(value, unit, name, plain=False):
    """One number in ``unit``; None stays None. With ``plain`` a number without a unit will do."""
    if value is None:
        return None
    try:
        value = u.Quantity(value)
        value = value * unit if plain and value.unit == u.one else value
        number = float(value.to_value(unit))
    except (TypeError, ValueError, u.UnitConversionError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: got {value}; {'a number or ' * plain}one finite quantity in {unit} is needed")
    return number


def _number(value, name, what="a"):
    """A number without a unit; None stays None."""
    if value is None:
        return None
    try:
        value = u.Quantity(value)
        if str(value.unit) == "redshift":  # of astropy.cosmology
            value = value.value * u.one
        return float(value.to_value(u.one))
    except (TypeError, ValueError, u.UnitConversionError):
        raise ValueError(f"{name}: got {value}; {what} number without a unit is needed") from None


def _count(value, name):
    """A whole number, 0 or more."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"{name}: got {value!r}; a whole number, 0 or more, is needed")
    return number


def _labels(labels):
    """Labels as a dict of str to bool."""
    if labels is None:
        return {}
    if not isinstance(labels, dict) or not all(isinstance(v, bool | np.bool_) for v in labels.values()):
        raise ValueError(f"labels: got {labels!r}; a dict of names and True or False, as {{'agn': True}}, is needed")
    return {name: bool(value) for name, value in labels.items()}


def _check_galaxy(galaxy):
    if not isinstance(galaxy, Galaxy):
        raise ValueError(f"galaxy: got {galaxy!r:.60}; a `fiberifu.simulate.Galaxy` is needed")


def _fwhm(value, name):
    """A FWHM in arcsec that the simulator's grid can hold; None stays None."""
    fwhm = _plain(value, u.arcsec, name)
    if fwhm is not None and not 0.3 <= fwhm <= 5:
        raise ValueError(f"{name}: got {fwhm:g} arcsec; a FWHM of 0.3 to 5 arcsec is needed")
    return fwhm


def _seconds(value, longest):
    """An exposure time in s."""
    seconds = _plain(value, u.s, "exposure")
    if seconds is None or not 0 < seconds <= longest:
        raise ValueError(f"exposure: got {value}; more than 0 s, at most {longest:.0f} s, is needed")
    return seconds


def _radius(value):
    """An effective radius, a length or an angle, as `choose` takes it."""
    if value is None:
        return {}
    for name, unit in (("radius_kpc", u.kpc), ("radius_arcsec", u.arcsec)):
        if getattr(value, "unit", u.one).is_equivalent(unit):
            return {name: _plain(value, unit, "effective_radius")}
    raise ValueError(f"effective_radius: got {value}; a length or an angle is needed")


def _line_maps(galaxy, truth, wcs, lsf):
    """Truth (L, ny, nx) as `LineMaps`; ``lsf`` a function of wavelength -> sigma [A], or 0."""
    observed = np.array([LINE_WAVELENGTH[line] for line in LINES]) * (1 + galaxy.redshift)
    sigma = np.broadcast_to(lsf(observed) if callable(lsf) else lsf, observed.shape)
    instrument = np.broadcast_to((sigma / observed * C_KMS)[:, None, None], truth["line_flux"].shape)
    return LineMaps(
        LINES, truth["line_flux"], np.zeros(truth["line_flux"].shape), truth["line_ew"], redshift=galaxy.redshift,
        velocity=truth["velocity"], dispersion=np.hypot(truth["sigma"], instrument),
        instrumental_dispersion=instrument, wcs=wcs, provenance=galaxy.provenance().replace(extinction_corrected=True),
    )  # fmt: skip


class Imager:
    """A camera and a survey's coadds.

    Parameters
    ----------
    camera : Camera
        Bands, exposure times, seeing; see `Camera`.

    Examples
    --------
    >>> from fiberifu.simulate import Galaxy, Imager
    >>> image = Imager.decals().observe(Galaxy(seed=1, index=2))
    >>> list(image), image["r"].shape, image["r"].unit
    (['g', 'r', 'z'], (128, 128), Unit("nmgy"))
    """

    def __init__(self, camera):
        self.camera = camera

    @classmethod
    def decals(cls):
        """The DECam Legacy Survey: g, r, z to 24.5, 24.0, 23.0 mag (5 sigma, point source)."""
        return cls(DECALS)

    @classmethod
    def des(cls):
        """The Dark Energy Survey as in the Legacy Surveys: a magnitude deeper, sharper."""
        return cls(DES)

    def observe(self, galaxy, *, size=None, noise=True, stars=0.6):
        """Images of a galaxy, North up, East left, each band with its own PSF.

        Parameters
        ----------
        galaxy : Galaxy
        size : `~astropy.units.Quantity`, optional
            Side of the images, an angle; 33.5 arcsec by default.
        noise : bool
        stars : float
            Foreground stars per arcmin2.

        Returns
        -------
        dict of str to `~astropy.nddata.CCDData`
            In nanomaggy, with inverse variance, mask (nothing measured, or saturated), PSF width, WCS and redshift.
        """
        _check_galaxy(galaxy)
        pixel = galaxy._simulator.config.pixel_scale
        count = None if size is None else round(_plain(size, u.arcsec, "size") / pixel)
        made = observe_images(
            galaxy._simulator, galaxy.seed, [galaxy.index], camera=self.camera, size=count, noise=noise, stars=stars,
            ebv=galaxy.galactic_ebv, scene=galaxy.scene,
        )[0]  # fmt: skip
        out = {}
        for band, flux in made.flux.items():
            out[band] = CCDData(
                flux,
                unit=u.nmgy,
                uncertainty=InverseVariance(made.ivar[band]),
                mask=(made.ivar[band] == 0) | (made.maskbits != 0),
                wcs=grid_wcs(galaxy.center, flux.shape[::-1], pixel * u.arcsec),
                meta={
                    "FILTER": f"DECam {band}",
                    "PSF_FWHM": made.psf_fwhm[band],
                    "REDSHIFT": galaxy.redshift,
                    "EBV": galaxy.galactic_ebv,
                    "DATATYPE": "SIMULATED",
                    "ORIGIN": "fiberifu",
                    "OBJECT": galaxy.name,
                },
            )
        return out


class FibreSpectrograph:
    """A spectrograph fed by single fibres.

    Parameters
    ----------
    instrument : FiberInstrument
    """

    def __init__(self, instrument):
        self.instrument = instrument

    @classmethod
    def desi(cls):
        """DESI: fibres of 1.5 arcsec, 3600-9824 A."""
        return cls(DESI)

    def observe(self, galaxy, positions=None, *, exposure=1000 * u.s, seeing=1.1 * u.arcsec, noise=True):
        """Spectra at positions, calibrated as the survey does: to the total flux of a point source.

        Parameters
        ----------
        galaxy : Galaxy
        positions : `~astropy.coordinates.SkyCoord`, optional
            Of any shape, in any frame that turns into ICRS; the galaxy's centre by default. Within the field of the
            simulation, 19.7 arcsec to the East, West, North, South with the default settings: beyond it there would be
            no light, not even that of the galaxy. At most 16, as many as have identifiers.
        exposure : `~astropy.units.Quantity`
            Effective time under a dark sky.
        seeing : `~astropy.units.Quantity`
            FWHM at 6500 A.
        noise : bool

        Returns
        -------
        `~specutils.Spectrum`, shape positions.shape + (7781,)
            The three arms as one. ``meta`` has ``table`` (the fibres' columns, see `FiberSpectra`), ``lsf``,
            ``redshift``, ``provenance``, and the noiseless ``truth`` of each fibre.
        """
        _check_galaxy(galaxy)
        positions = galaxy.center if positions is None else _icrs(positions)
        east, north = (a.to_value(u.arcsec) for a in galaxy.center.spherical_offsets_to(positions))
        flat = np.ravel(east), np.ravel(north)
        if not 0 < len(flat[0]) <= FIBERS:
            raise ValueError(f"positions: got {len(flat[0])}; 1 to {FIBERS} fibres on a galaxy are needed")
        off, reach = np.maximum(*np.abs(flat)), field_reach(galaxy._simulator)
        if not np.all(off <= reach):  # NaN, too
            most = "NaN" if np.isnan(off).any() else f"{off.max():.1f}"
            raise ValueError(
                f"positions: got {most} arcsec from the galaxy's centre at most, East, West, North or South; the "
                f"simulated field reaches to {reach:.1f} arcsec"
            )
        made = observe_fibers(
            galaxy._simulator, galaxy.scene, galaxy.seed,
            {"owner": np.zeros(len(flat[0]), int), "east": flat[0], "north": flat[1],
             "kind": np.full(len(flat[0]), "chosen")},
            seconds=_seconds(exposure, 63 * self.instrument.longest), seeing=_fwhm(seeing, "seeing"), noise=noise,
            instrument=dataclasses.replace(self.instrument, failed=0.0), ebv=galaxy.galactic_ebv,
            photometry=galaxy.photometry,
        )  # fmt: skip
        flux, ivar = one_spectrum(made)
        grid = galaxy._simulator.desi
        shape = (*positions.shape, flux.shape[-1])
        meta = {
            "provenance": galaxy.provenance(), "redshift": galaxy.redshift, "medium": "vacuum",
            "lsf": grid.lsf.cpu().numpy() * u.AA, "table": made.table, "truth": made.meta["truth"],
            "ebv": galaxy.galactic_ebv,
        }  # fmt: skip
        return make_spectra(
            flux.reshape(shape), ivar.reshape(shape), (ivar == 0).reshape(shape),
            wavelength=grid.wave.cpu().numpy() * u.AA, positions=positions, meta=meta,
        )  # fmt: skip


def _icrs(positions):
    """Positions in the frame of `Galaxy.center`, without attributes of another frame."""
    try:
        positions = positions.transform_to("icrs")
        return SkyCoord(positions.ra, positions.dec)
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"positions: got {positions!r:.80}; a SkyCoord that turns into ICRS is needed") from None


def one_spectrum(spectra):
    """The arms of `FiberSpectra` as one: means weighted with ivar where they overlap; flux, ivar (F, 7781)."""
    count, total = next(iter(spectra.flux.values())).shape[0], max(first + n for first, n in ARMS.values())
    weighted, ivar = np.zeros((count, total)), np.zeros((count, total))
    for arm, (first, n) in ARMS.items():
        weighted[:, first : first + n] += spectra.flux[arm] * spectra.ivar[arm].astype(float)
        ivar[:, first : first + n] += spectra.ivar[arm]
    return np.where(ivar > 0, weighted / np.where(ivar > 0, ivar, 1), 0), ivar


class IFU:
    """An integral-field unit of hexagonal fibre bundles.

    Parameters
    ----------
    instrument : IFUInstrument
    fibers : int, optional
        19, 37, 61, 91 or 127; by default the smallest bundle that covers 1.5 half-light radii.

    Examples
    --------
    >>> from fiberifu.simulate import IFU, Galaxy
    >>> cube, truth = IFU.manga(fibers=19).observe(Galaxy(seed=1, index=2, redshift=0.05))
    >>> cube.shape, truth.flux["Ha"].shape
    ((4563, 34, 34), (34, 34))
    """

    def __init__(self, instrument, fibers=None):
        if fibers is not None and fibers not in BUNDLES:
            raise ValueError(f"fibers: got {fibers}, use one of {BUNDLES}")
        self.instrument, self.fibers = instrument, fibers

    @classmethod
    def manga(cls, fibers=None):
        """MaNGA: 2 arcsec fibres, three pointings, cubes of 0.5 arcsec spaxels, 3622-10354 A."""
        return cls(MANGA, fibers)

    def observe(self, galaxy, *, exposure=2.25 * u.h, seeing=None, noise=True):
        """The reconstructed cube of a galaxy, and the truth in its spaxels.

        Parameters
        ----------
        galaxy : Galaxy
        exposure : `~astropy.units.Quantity`
            In all. It is split evenly into visits of three pointings, as many as bring them nearest to 900 s each.
        seeing : `~astropy.units.Quantity`, optional
            FWHM at the fibres; drawn around 1.3 arcsec by default.
        noise : bool

        Returns
        -------
        cube : `~specutils.Spectrum`, shape (4563, ny, nx)
            Per spaxel, North up, East left. ``meta`` has ``psf_fwhm``, ``correlation`` of the noise of spaxels by their
            distance, ``drp_mask`` (bits NOCOV 0, LOWCOV 1, DEADFIBER 2, FORESTAR 3, DONOTUSE 10), ``images``, ``lsf``,
            ``redshift``, ``provenance``; the mask is True where DONOTUSE is set.
        truth : `~fiberifu.lines.LineMaps`
            Noiseless, at the cube's PSF, without the Milky Way's dust; the dispersion includes the instrument's.
        """
        _check_galaxy(galaxy)
        fibers = self.fibers
        if fibers is None:
            radius = 1.5 * float(galaxy.photometry.half_light[0])
            fibers = next((n for n in BUNDLES if bundle_radius(n, self.instrument) >= radius), BUNDLES[-1])
        seconds, usual = _seconds(exposure, 1e6), self.instrument.seconds
        sets = max(1, round(seconds / (3 * usual)))
        each = seconds / (3 * sets)
        instrument = dataclasses.replace(
            self.instrument, seconds=each, cosmic_rate=self.instrument.cosmic_rate * each / usual
        )
        made = observe_ifu(
            galaxy._simulator, galaxy.scene, galaxy.seed, fibers=fibers, sets=sets, noise=noise,
            seeing=_fwhm(seeing, "seeing"), instrument=instrument, ebv=galaxy.galactic_ebv,
        )  # fmt: skip
        wcs = cube_wcs(galaxy.center, made.flux.shape[1:], made.spaxel * u.arcsec, made.wave * u.AA)
        meta = {
            "provenance": galaxy.provenance(), "redshift": galaxy.redshift, "medium": "vacuum", "lsf": made.lsf * u.AA,
            "psf_fwhm": made.fwhm, "correlation": made.correlation, "drp_mask": made.mask, "images": made.images,
            "ebv": galaxy.galactic_ebv, "table": made.table,
        }  # fmt: skip
        cube = make_cube(made.flux, made.ivar, made.mask & 1 << 10, wcs=wcs, meta=meta)
        return cube, _line_maps(galaxy, made.truth, wcs.celestial, lambda w: np.interp(w, made.wave, made.lsf))
