# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Telescopes that look at a `Galaxy`: `Imager`, `FibreSpectrograph`, `IFU`.

``Galaxy -> observe -> {band: CCDData}``, or `~specutils.Spectrum`, with the true `~fiberifu.lines.LineMaps`.
"""

import dataclasses

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, InverseVariance

from ...cube import cube_wcs, make_cube, make_spectra
from ...instrument import grid_wcs
from ..fiber import ARMS, DESI, field_reach, observe_fibers
from ..identifiers import FIBERS
from ..ifu import BUNDLES, MANGA, bundle_radius, observe_ifu
from ..imager import BASS_MZLS, DECALS, DES, observe_images
from .arguments import exposure_seconds, fwhm_arcsec, icrs_positions, plain_number
from .galaxy import check_galaxy, true_line_maps

__all__ = ["IFU", "FibreSpectrograph", "Imager"]


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

    @classmethod
    def north(cls):
        """BASS (g, r) and MzLS (z), the northern Legacy Surveys; their curves are in the speclite package."""
        return cls(BASS_MZLS)

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
            In nanomaggy, with inverse variance, mask (nothing measured, or saturated) and WCS. ``meta`` has OBJECT,
            FILTER, PSF_FWHM (arcsec), EBV and, as cards, all that `~fiberifu.provenance.Provenance.from_header` reads.
            `~fiberifu.simulate.files.write_cutout` writes it.
        """
        check_galaxy(galaxy)
        pixel = galaxy._simulator.config.pixel_scale
        count = None if size is None else round(plain_number(size, u.arcsec, "size") / pixel)
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
                    "OBJECT": galaxy.name,
                    "FILTER": made.meta["filters"][band],
                    "PSF_FWHM": made.psf_fwhm[band],
                    "EBV": galaxy.galactic_ebv,
                    **galaxy.provenance().to_header(),
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
            The three arms as one. ``meta`` has ``object``, ``table`` (the fibres' columns, see `FiberSpectra`),
            ``lsf``, ``redshift``, ``ebv``, ``provenance``, and the noiseless ``truth`` of each fibre.
            `~fiberifu.cube.write_spectra` writes it, without table and truth.
        """
        check_galaxy(galaxy)
        positions = galaxy.center if positions is None else icrs_positions(positions)
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
            seconds=exposure_seconds(exposure, 63 * self.instrument.longest),
            seeing=fwhm_arcsec(seeing, "seeing"), noise=noise,
            instrument=dataclasses.replace(self.instrument, failed=0.0), ebv=galaxy.galactic_ebv,
            photometry=galaxy.photometry,
        )  # fmt: skip
        flux, ivar = one_spectrum(made)
        grid = galaxy._simulator.desi
        shape = (*positions.shape, flux.shape[-1])
        meta = {
            "provenance": galaxy.provenance(), "redshift": galaxy.redshift, "medium": "vacuum",
            "lsf": grid.lsf.cpu().numpy() * u.AA, "table": made.table, "truth": made.meta["truth"],
            "ebv": galaxy.galactic_ebv, "object": galaxy.name,
        }  # fmt: skip
        return make_spectra(
            flux.reshape(shape), ivar.reshape(shape), (ivar == 0).reshape(shape),
            wavelength=grid.wave.cpu().numpy() * u.AA, positions=positions, meta=meta,
        )  # fmt: skip


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
            distance, ``drp_mask`` (bits NOCOV 0, LOWCOV 1, DEADFIBER 2, FORESTAR 3, DONOTUSE 10), ``images``, ``psf``,
            ``lsf``, ``object``, ``table`` (of `IFUCube`), ``redshift``, ``ebv``, ``provenance``; the mask is True where
            DONOTUSE is set. `~fiberifu.simulate.files.write_logcube` writes it.
        truth : `~fiberifu.lines.LineMaps`
            Noiseless, at the cube's PSF, without the Milky Way's dust; the dispersion includes the instrument's. Its
            method ``write`` writes it.
        """
        check_galaxy(galaxy)
        fibers = self.fibers
        if fibers is None:
            radius = 1.5 * float(galaxy.photometry.half_light[0])
            fibers = next((n for n in BUNDLES if bundle_radius(n, self.instrument) >= radius), BUNDLES[-1])
        seconds, usual = exposure_seconds(exposure, 1e6), self.instrument.seconds
        sets = max(1, round(seconds / (3 * usual)))
        each = seconds / (3 * sets)
        instrument = dataclasses.replace(
            self.instrument, seconds=each, cosmic_rate=self.instrument.cosmic_rate * each / usual
        )
        made = observe_ifu(
            galaxy._simulator, galaxy.scene, galaxy.seed, fibers=fibers, sets=sets, noise=noise,
            seeing=fwhm_arcsec(seeing, "seeing"), instrument=instrument, ebv=galaxy.galactic_ebv,
        )  # fmt: skip
        wcs = cube_wcs(galaxy.center, made.flux.shape[1:], made.spaxel * u.arcsec, made.wave * u.AA)
        meta = {
            "provenance": galaxy.provenance(), "redshift": galaxy.redshift, "medium": "vacuum", "lsf": made.lsf * u.AA,
            "psf_fwhm": made.fwhm, "correlation": made.correlation, "drp_mask": made.mask, "images": made.images,
            "psf": made.psf, "ebv": galaxy.galactic_ebv, "table": made.table, "object": galaxy.name,
        }  # fmt: skip
        cube = make_cube(made.flux, made.ivar, made.mask & 1 << 10, wcs=wcs, meta=meta)
        return cube, true_line_maps(galaxy, made.truth, wcs.celestial, lambda w: np.interp(w, made.wave, made.lsf))
