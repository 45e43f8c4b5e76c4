"""`VirtualIFU`: images and sky positions in, spectra and cubes out."""

import dataclasses
import logging
import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.utils.exceptions import AstropyUserWarning

from .constants import C_KMS
from .context import check_redshifts, context_redshift, fiber_errors, resolve_context, warn_of_strangers
from .decode import decode, encode_at, infer_redshift, range_flags
from .extinction import mw_transmission
from .flags import Flag
from .image import prepare_image
from .instrument import aperture_points, beam_fwhm, grid_wcs, resolve_lsf, resolve_wavelength
from .kinematics import systemic_prior
from .pointing import Spaxel, resolve_aperture, resolve_positions
from .prediction import Prediction
from .pretrained import BUNDLED, resolve_pretrained
from .provenance import Provenance
from .redshift import resolve_redshift
from .support import calibration_flags, coverage_flags, image_oddity

__all__ = ["VirtualIFU", "off_image"]

logger = logging.getLogger(__name__)
_warned = set()


class VirtualIFU:
    """An integral field unit made of an image and a network.

    Build it with `from_pretrained`. It predicts what a fibre, or every spaxel of an IFU, would see at any position of a
    galaxy, with the uncertainty of that prediction. **A prediction is not an observation**; every product says so.

    Parameters
    ----------
    model : `fiberifu.model.FiberMAE`
    passport : dict
        From ``config.json`` of the model folder.
    card : str
        The model card.
    sha256 : str
        Of the weights.
    """

    def __init__(self, model, *, passport, card, sha256):
        self._model = model
        self.passport, self.card, self.weights_sha256 = passport, card, sha256

    def __repr__(self):
        return (
            f"<VirtualIFU {self.config.name!r}, bands {''.join(self.config.bands)}, weights {self.weights_sha256[:12]}>"
        )

    @property
    def config(self):
        """`~fiberifu.model.ModelConfig` of the network."""
        return self._model.config

    @classmethod
    def from_pretrained(cls, source=None, *, revision=None):
        """Load weights.

        Parameters
        ----------
        source : str or path-like, optional
            None for the bundled model (no network needed), a model folder, or ``"hf://owner/name"``;
            ``"pengzehao/MultimodalHF"`` is the published network of Peng et al. (2026), see `fiberifu.published`.
        revision : str, optional
            Of a hub repository.

        Returns
        -------
        VirtualIFU

        Raises
        ------
        FileNotFoundError
            When the folder or one of its files does not exist.
        ValueError
            When tensors are missing or extra, or a configuration has unknown names.
        """
        from .model import is_published, load_checkpoint, load_published, weights_sha256

        folder = resolve_pretrained(source, revision=revision)
        model, passport = (load_published if is_published(folder) else load_checkpoint)(folder)
        card = folder / "README.md"
        if folder == BUNDLED and "bundled" not in _warned:
            _warned.add("bundled")
            logger.warning(
                "the bundled weights were trained on simulated galaxies: for learning, tests and planning, "
                "not for published measurements (see VirtualIFU.card)"
            )
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        return cls(model, passport=passport, card=text, sha256=weights_sha256(folder))

    def save_pretrained(self, folder):
        """Write ``config.json``, ``model.safetensors`` and ``README.md``, to be loaded by `from_pretrained`.

        Parameters
        ----------
        folder : path-like
            Made if it does not exist.
        """
        from .model import save_checkpoint

        save_checkpoint(Path(folder), self._model, card=self.card, passport=self.passport)

    # --- the main job ---------------------------------------------------------------------------------------------
    def observe(self, image, positions, **keywords):
        """Spectra at sky positions: `predict`, then `Prediction.spectrum <fiberifu.Prediction.spectrum>`.

        Parameters
        ----------
        image, positions, **keywords
            As for `predict`.

        Returns
        -------
        `~specutils.Spectrum` (formerly ``Spectrum1D``)
            Flux ``positions.shape + (n_wave,)``; the `~fiberifu.Prediction` is in ``meta["prediction"]``.
        """
        return self.predict(image, positions, **keywords).spectrum()

    def observe_cube(self, image, **keywords):
        """A cube (wave, y, x): `predict_cube`, then `Prediction.cube <fiberifu.Prediction.cube>`.

        Parameters
        ----------
        image, **keywords
            As for `predict_cube`.

        Returns
        -------
        `~specutils.Spectrum`
            With a 3-D FITS WCS; the `~fiberifu.Prediction` is in ``meta["prediction"]``.
        """
        return self.predict_cube(image, **keywords).cube()

    def predict(
        self,
        image,
        positions,
        *,
        redshift=None,
        aperture=1.5 * u.arcsec,
        seeing=None,
        lsf=None,
        wavelength=None,
        ebv=None,
        deredden=False,
        context=(),
        seed=0,
        progress=False,
    ):
        """Predict spectra at sky positions, lazily.

        Parameters
        ----------
        image : mapping of str to `~astropy.nddata.CCDData`, or `~astropy.nddata.CCDData`
            Band -> image; a stack of bands; or one band. See `fiberifu.image.prepare_image`.
        positions : `~astropy.coordinates.SkyCoord` or a `regions` sky region
            Any frame and shape.
        redshift : float, (mean, sigma) or `~astropy.uncertainty.Distribution`, optional
            None takes the redshift of a context spectrum, else ``image.meta["REDSHIFT"]``, else a broad p(z | image)
            of the model, with a warning and a flag.
        aperture : `~astropy.units.Quantity`, `~fiberifu.Spaxel` or `~fiberifu.Gaussian`
            Fibre diameter (1.5 arcsec is DESI's and the training aperture, 2 MaNGA, 3 SDSS), or another shape.
        seeing : `~astropy.units.Quantity`, optional
            FWHM of the PSF wanted; the image's own by default. A sharper one cannot be had: the attainable one is
            used and flagged.
        lsf : `~astropy.units.Quantity`, float or callable, optional
            Instrumental resolution: sigma as a length (scalar, or one per ``wavelength``), a resolving power
            lambda/FWHM, or a function of observed wavelength that returns sigma, both in angstrom. By default
            that of DESI.
        wavelength : `~astropy.units.Quantity`, optional
            Vacuum pixel centres, rising; by default DESI's 3600-9824 A in steps of 0.8 A.
        ebv : float, optional
            Galactic E(B-V), SFD scale; by default ``image.meta["EBV"]``, else 0.
        deredden : bool
            Return spectra corrected for Galactic extinction; by default they are as observed.
        context : sequence of (`~specutils.Spectrum`, `~astropy.coordinates.SkyCoord`), optional
            Real spectra of the same galaxy and where they were taken.
        seed : int
            Recorded, and the seed of `Prediction.sample <fiberifu.Prediction.sample>`.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Prediction

        Raises
        ------
        ValueError
            Naming the argument, what came and what would do.
        """
        places = resolve_positions(positions)
        shape = places.shape
        return self._predict(
            self._prepare(image, ebv, seeing),
            places.sky.reshape(shape) if shape else places.sky[0],
            None,
            aperture=aperture,
            redshift=redshift,
            lsf=lsf,
            wavelength=wavelength,
            ebv=ebv,
            deredden=deredden,
            context=context,
            seed=seed,
            progress=progress,
        )

    def predict_cube(
        self,
        image,
        *,
        redshift=None,
        size=30 * u.arcsec,
        spaxel=0.5 * u.arcsec,
        center=None,
        seeing=None,
        lsf=None,
        wavelength=None,
        ebv=None,
        deredden=False,
        context=(),
        seed=0,
        progress=False,
    ):
        """Predict a cube of surface brightness x spaxel area, lazily; North up, East left.

        Parameters
        ----------
        image, redshift, seeing, lsf, wavelength, ebv, deredden, context, seed, progress
            As for `predict`.
        size : `~astropy.units.Quantity`
            Side of the field, or (width, height).
        spaxel : `~astropy.units.Quantity`
            Side of a spaxel.
        center : `~astropy.coordinates.SkyCoord`, optional
            Of the field; the image's centre by default.

        Returns
        -------
        Prediction
        """
        size = u.Quantity(size)
        if not size.unit.is_equivalent(u.arcsec) or size.shape not in ((), (2,)):
            raise ValueError(f"size={size!r}: give an angle such as 30 * u.arcsec, or (width, height)")
        spaxel_shape = resolve_aperture(Spaxel(spaxel))
        counts = np.rint(np.broadcast_to((size / spaxel).to_value(u.one), 2)).astype(int)
        if counts.min() < 1 or counts.prod() > 4_000_000:
            raise ValueError(
                f"size={size}, spaxel={spaxel}: that makes {counts[0]} x {counts[1]} spaxels; 1 to 4,000,000 will do"
            )
        prepared = self._prepare(image, ebv, seeing)
        if center is None:
            center = prepared.center
        elif not (isinstance(center, SkyCoord) and center.isscalar):
            raise ValueError(f"center={center!r}: give one SkyCoord")
        wcs = grid_wcs(center.icrs, counts, spaxel)
        x, y = np.meshgrid(np.arange(counts[0]), np.arange(counts[1]))
        return self._predict(
            prepared,
            wcs.pixel_to_world(x, y).icrs,
            wcs,
            aperture=spaxel_shape,
            redshift=redshift,
            lsf=lsf,
            wavelength=wavelength,
            ebv=ebv,
            deredden=deredden,
            context=context,
            seed=seed,
            progress=progress,
        )

    def latents(self, image, *, center=None, ebv=None, seeing=None):
        """What the network makes of a galaxy's image before it is asked for a position: the mean of its tokens.

        Neither the redshift nor a spectrum enters. The network guesses redshifts from it; as features of an image it
        serves to find similar galaxies, or odd ones.

        Parameters
        ----------
        image, ebv, seeing
            As for `predict`.
        center : `~astropy.coordinates.SkyCoord`, optional
            Of the stamp that is looked at; the image's centre by default.

        Returns
        -------
        ndarray of float32, shape (``config.width``,)

        Raises
        ------
        ValueError
            Naming the argument; also for a center outside of the image, and with the published network, whose tokens
            depend on the position of the fibre.
        """
        if self._published:
            raise ValueError(
                "latents: the published network has none to give: each of its tokens knows where the fibre is; use "
                "weights of fiberifu"
            )
        prepared = self._prepare(image, ebv, seeing)
        offset = prepared.offsets(prepared.center if center is None else resolve_positions(center).sky)
        if len(offset) != 1 or not prepared.contains(offset)[0]:
            raise ValueError(f"center={center}: give one position on the image, around {prepared.center.to_string()}")
        return encode_at(self._model, prepared, *offset[0]).pooled[0].numpy()

    # --- its parts ------------------------------------------------------------------------------------------------
    @property
    def _published(self):
        """`fiberifu.published`, which does the job with the published network's weights; None with ours."""
        if getattr(self.config, "architecture", None) is None:
            return None
        from . import published

        return published

    def _prepare(self, image, ebv, seeing):
        from .image import PreparedImage

        if self._published:
            return self._published.prepare(image, self.config, ebv=ebv, seeing=seeing)
        c = self.config
        if isinstance(image, PreparedImage):
            if ebv is not None or seeing is not None:
                raise ValueError("image is a PreparedImage already: give ebv= and seeing= to prepare_image")
            if (image.bands, image.pixel_scale, image.stamp_size) != (c.bands, c.pixel_scale, c.stamp):
                raise ValueError(
                    f"image was prepared for bands {image.bands} and stamps of {image.stamp_size} pixels "
                    f"of {image.pixel_scale} arcsec; the model needs {c.bands}, {c.stamp}, {c.pixel_scale}"
                )
            return image
        return prepare_image(image, bands=c.bands, pixel_scale=c.pixel_scale, stamp=c.stamp, ebv=ebv, seeing=seeing)

    def _predict(
        self,
        prepared,
        positions,
        wcs,
        *,
        redshift,
        aperture,
        lsf,
        wavelength,
        ebv,
        deredden,
        context,
        seed,
        progress,
    ):
        import torch

        from .model import Node, reweighted

        if self._published:
            own = self._model, self.passport, self.card, self.weights_sha256
            return self._published.predict(
                *own, prepared, positions, wcs, redshift=redshift, aperture=aperture, lsf=lsf, wavelength=wavelength,
                ebv=ebv, deredden=deredden, context=context, seed=seed, progress=progress,
            )  # fmt: skip
        aperture = resolve_aperture(aperture)
        offsets = prepared.offsets(positions.ravel() if positions.shape else positions)
        flags = (
            prepared.position_flags(offsets)
            | int(prepared.flags)
            | int(Flag.CONTINUUM_RESOLUTION | Flag.VELOCITY_PRIOR)
        )
        known_ebv = ebv is not None or "EBV" in prepared.meta
        if deredden and not known_ebv:
            raise ValueError("deredden=True needs the Galactic E(B-V): give ebv= or image.meta['EBV']")
        spectra = resolve_context(context, prepared)
        trained = self.config.redshift_min, self.config.redshift_max
        from_context = context_redshift(spectra, prepared.meta.get("REDSHIFT")) if redshift is None else None
        if from_context is not None:
            nodes = dataclasses.replace(resolve_redshift(from_context, trained=trained), source="context")
        else:
            nodes = resolve_redshift(redshift, prepared.meta, trained=trained)
        z_given = None if nodes is None else nodes.mean
        if nodes is None:
            nodes = infer_redshift(self._model, prepared)
            flags |= int(Flag.REDSHIFT_INFERRED)
        check_redshifts(spectra, nodes)
        flags |= int(nodes.flags)
        renderer = self._renderer(wavelength, lsf, prepared.ebv if not deredden else 0.0)
        points, scale, small = aperture_points(aperture, self.config.aperture)
        if small and not isinstance(aperture, Spaxel):  # a cube's spaxels sample the beam, they do not cut it
            flags |= int(Flag.APERTURE_SMALLER)
        field = self.passport.get("calibration", {}).get("field")
        if spectra and field is None:
            raise ValueError("context: these weights have no calibration, which tells how far errors reach; "
                             "`fiberifu calibrate` makes it")  # fmt: skip
        gas_prior = systemic_prior(prepared, offsets, nodes.mean)

        made, photometry = [], {}
        for z, weight, sigma_z in zip(nodes.z, nodes.weights, nodes.sigma, strict=True):
            mixture, sigma_gas, seen = self._decode(prepared, offsets, points, scale, z, progress)
            total = np.sqrt(sigma_gas**2 + gas_prior**2 + (C_KMS * sigma_z / (1 + z)) ** 2)
            node = Node(float(z), float(weight), mixture, torch.from_numpy(total.astype(np.float32)))
            if spectra:
                at = np.array([where for _, where in spectra])
                there = self._decode(prepared, at, np.zeros((1, 2)), 1.0, z, False)
                fibers = fiber_errors(self._model, spectra, prepared, there, float(z), field, seed)
                node = node.given(fibers, torch.from_numpy(np.nan_to_num(offsets)))
                moved = node.gaussian.mean - mixture.collapse().mean
                bands = self._model.basis.photometry(torch.tensor([float(z)]))[0]  # (C, K)
                seen["predicted"] = seen["predicted"] + (moved @ bands.T).numpy() / scale
            made.append(node)
            photometry = {name: photometry.get(name, 0.0) + weight * value for name, value in seen.items()}
        made = reweighted(made)
        flags |= warn_of_strangers(made)
        z_mean, z_spread = nodes.mean, nodes.spread
        if spectra and len(made) > 1:
            z_mean = sum(node.weight * node.redshift for node in made)
            z_spread = sum(node.weight * (node.redshift - z_mean) ** 2 for node in made) ** 0.5
        usable = np.isfinite(photometry["error"]).any(1) & ((flags & int(Flag.OUTSIDE_IMAGE)) == 0)
        flags |= np.where(usable, 0, int(Flag.BAD_SPAXEL))
        if not usable.any():
            warnings.warn(off_image(prepared, positions), AstropyUserWarning, stacklevel=3)
        flags |= np.where(photometry["scale"][:, 0] < 0, int(Flag.NEGATIVE_FLUX), 0)
        flags |= coverage_flags(renderer, nodes, self.config)
        flags |= calibration_flags(self.passport.get("calibration", {}), nodes, prepared.galaxy)
        oddity = image_oddity(self._model, self.passport.get("oddity"), prepared, offsets, z_given)
        flags |= 0 if oddity is None else oddity.flags
        flags |= range_flags(self.config.bands, self.passport.get("training_range", {}), photometry)
        photometry = {name: scale * value for name, value in photometry.items()}  # in the aperture asked for
        beam = np.hypot(prepared.psf_fwhm, beam_fwhm(aperture, self.config.aperture)) * u.arcsec
        provenance = Provenance(
            model_id=self.config.name,
            weights_sha256=self.weights_sha256,
            training_data=str(self.passport.get("training_data", "unknown")),
            image_sha256=prepared.sha256,
            redshift=z_mean,
            redshift_sigma=z_spread,
            redshift_source=nodes.source,
            seed=seed,
            ebv=prepared.ebv if known_ebv else None,
            extinction_corrected=deredden,
            extra={"NCONTEXT": len(spectra)},
        )
        edges = renderer.edges.numpy()
        grid = (edges[1:] + edges[:-1]) / 2 * u.AA if wavelength is None else u.Quantity(wavelength).to(u.AA)
        return Prediction(
            positions=positions,
            wcs=wcs,
            wavelength=grid,
            redshift=z_mean,
            flags=flags.reshape(positions.shape).astype(np.int32),
            card=self.card,
            provenance=provenance,
            image=prepared,
            beam=beam,
            aperture=aperture,
            nodes=made,
            renderer=renderer,
            photometry=photometry,
            usable=usable,
            offsets=offsets,
            field=tuple(field or (0.0, 1.0)),
            ebv_out=0.0 if deredden else prepared.ebv,
            oddity=None if oddity is None else oddity.reshape(positions.shape),
        )

    def _decode(self, prepared, offsets, points, scale, z, progress):
        """`decode`, calibrated."""
        import torch

        from .model import aperture_snr, apply_calibration

        mixture, sigma_gas, seen = decode(self._model, prepared, offsets, points, scale, z, progress)
        if "calibration" in self.passport:
            snr = aperture_snr(*(torch.from_numpy(seen[name]).float() for name in ("flux", "error")))
            mixture = apply_calibration(mixture, snr, self.passport["calibration"])
        return mixture, sigma_gas, seen

    def _renderer(self, wavelength, lsf, ebv):
        import torch

        from .model import Renderer, desi_lsf, pixel_edges

        if wavelength is None:
            edges = self._model.edges
        else:
            edges = pixel_edges(torch.from_numpy(resolve_wavelength(wavelength)))
        centres = ((edges[1:] + edges[:-1]) / 2).numpy()
        through = torch.from_numpy(mw_transmission(centres, ebv).astype(np.float32)) if ebv else None
        floor = float(self._model.log_floor.detach().exp())
        return Renderer(
            self._model.basis, edges, lsf=resolve_lsf(lsf, centres) or desi_lsf, floor=floor, transmission=through
        )


def off_image(prepared, positions):
    """Where positions are that see nothing of the image, in words."""
    first = positions.ravel()[0] if positions.shape else positions
    here, centre = (place.to_string("decimal", precision=4) for place in (first, prepared.center))
    away = first.separation(prepared.center).to(u.arcsec)
    text = f"positions: none lies on usable pixels of the image; {here} is {away:.0f} from its centre, {centre}"
    if abs(first.ra.deg) <= 90:
        swapped = SkyCoord(first.dec.deg, first.ra.deg, unit="deg")
        if prepared.contains(prepared.offsets(swapped))[0]:
            text += "; RA and Dec seem to be swapped"
    return text
