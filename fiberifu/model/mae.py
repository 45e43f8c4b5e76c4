"""The masked autoencoder: encode a galaxy once, query it anywhere, and the loss that trains it.

Shapes: B galaxies, F fibres or positions, T tokens, D width, C bands, P pixels, K coefficients.
"""

import dataclasses

import torch
from torch import nn

from .basis import RestBasis, desi_lsf, pixel_edges
from .decoder import Decoded, PatchDecoder, QueryDecoder, photometric_shape
from .distribution import coefficient_nll, compress, functional_nll, measure, mixture_nll
from .encoder import Encoder
from .local import LocalView
from .masking import hide_image, show_spectrum
from .tokens import ImageTokens, SpectrumTokens, patch_centres

MEASURED = 300.0  # error of a functional, in units of the continuum (x 1 A for lines), beyond which it is not measured

__all__ = ["Encoded", "FiberMAE", "Losses"]


@dataclasses.dataclass
class Encoded:
    """A galaxy once encoded: tokens (B, T, D), their sky offsets (B, T, 2), which may be read (B, T), the mean of these
    (B, D), a guess of the redshift from it, and what the image tokens were made of (see `ImageTokens.pixels`)."""

    tokens: torch.Tensor
    offset: torch.Tensor
    keep: torch.Tensor
    pooled: torch.Tensor
    redshift_logits: torch.Tensor
    pixels: tuple


@dataclasses.dataclass
class Losses:
    """Mean losses of a batch; ``total`` is what is minimised."""

    total: torch.Tensor
    misfit: torch.Tensor
    fit: torch.Tensor
    spread: torch.Tensor
    image: torch.Tensor
    redshift: torch.Tensor


class FiberMAE(nn.Module):
    """Image and fibre-spectrum masked autoencoder that decodes to coefficients on a rest-frame basis."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.basis = RestBasis(config)
        self.image_tokens = ImageTokens(config)
        self.spectrum_tokens = SpectrumTokens(config)
        self.encoder = Encoder(config)
        self.local = LocalView(config)
        self.query_decoder = QueryDecoder(config, self.basis)
        self.patch_decoder = PatchDecoder(config)
        self.redshift_head = nn.Linear(config.width, config.redshift_bins)
        self.log_floor = nn.Parameter(torch.tensor(-4.5))  # log relative model error per pixel
        self.register_buffer("centres", patch_centres(config), persistent=False)
        wave = config.wave_start + config.wave_step * torch.arange(config.wave_size, dtype=torch.float64)
        self.register_buffer("edges", pixel_edges(wave), persistent=False)

    # --- use -----------------------------------------------------------------------------------------------------
    def encode(self, image, sigma, psf_fwhm, visible=None, context=None, parts=1):
        """Encode galaxies, without knowing where they will be queried.

        Parameters
        ----------
        image, sigma : Tensor (B, C, S, S)
            Surface brightness and its noise [nanomaggy/arcsec2]; sigma inf where nothing was measured.
        psf_fwhm : Tensor (B,)
            arcsec.
        visible : Tensor (B, T) of bool, optional
            Image patches shown (all by default).
        context : tuple, optional
            ``(tokens (B, S, D), offset (B, S, 2), keep (B, S))`` of fibre spectra, see `context_tokens`.
        parts : int
            In which galaxies are encoded, see `fiberifu.model.encoder.Encoder`.

        Returns
        -------
        Encoded
        """
        tokens, keep, pixels = self.image_tokens(image, sigma, psf_fwhm)
        if visible is not None:
            keep = keep & visible
        keep = keep | ~keep.any(-1, keepdim=True)  # nothing at all to read: read the 'missing' tokens
        offset = self.centres.expand(len(image), -1, -1)
        if context is not None:
            tokens, offset, keep = (torch.cat(x, 1) for x in zip((tokens, offset, keep), context, strict=True))
        encoded = self.encoder(tokens, offset, keep, parts)
        pooled = (encoded * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
        return Encoded(encoded, offset, keep, pooled, self.redshift_head(pooled), pixels)

    def context_tokens(self, image, sigma, galaxy, offset, flux, ivar, redshift, show=None):
        """Tokens of fibre spectra as context: (F, S, D), offsets (F, S, 2), keep (F, S).

        ``show`` (F, S) picks the patches shown, all by default. Spectra are measured in units of the mean flux
        density that the image has in their aperture.
        """
        band_flux, error = self.local.photometry(image, sigma, galaxy, offset)
        tokens, keep = self.spectrum_tokens(flux, ivar, self._reference(band_flux, error), redshift)
        if show is not None:
            tokens = tokens.gather(1, show[..., None].expand(-1, -1, tokens.shape[-1]))
            keep = keep.gather(1, show)
        return tokens, offset[:, None].expand(-1, tokens.shape[1], -1), keep

    def query(self, encoded, image, sigma, psf_fwhm, galaxy, offset, redshift, sigma_z, photometry=None):
        """Coefficients at F positions: ``galaxy`` (F,) index, ``offset`` (F, 2) arcsec, ``redshift``, ``sigma_z`` (F,).

        ``photometry`` (F, C, K) is ``basis.photometry(redshift)`` where it is at hand already.

        Returns
        -------
        Decoded
        """
        flux, error = self.local.photometry(image, sigma, galaxy, offset)
        photometry = self.basis.photometry(redshift) if photometry is None else photometry
        scale = self.basis.component_scale
        start = photometric_shape(photometry[..., : self.config.n_continuum], flux, error, scale)
        colours = start[:, 1:] / scale[1:]
        near, around = self.local(image, sigma, psf_fwhm, galaxy, offset, redshift, sigma_z, flux, error, colours)
        shape = self.query_decoder(near, around, offset, encoded, galaxy, start, scale)
        return Decoded(shape, photometry, flux, error)

    def measure(self, mean, sigma_gas, flux, ivar, redshift):
        """What spectra of F fibres say about their coefficients, and how badly the basis follows them.

        Parameters
        ----------
        mean : Tensor (F, K)
            Coefficients from which the independent error of each pixel is taken.
        sigma_gas : Tensor (F,)
            Dispersion of the lines, km/s.
        flux, ivar : Tensor (F, P)
        redshift : Tensor (F,)

        Returns
        -------
        misfit, best, precision : Tensor
            See `fiberifu.model.distribution.measure`.
        """
        lsf = desi_lsf(self.basis.line_wave * (1 + redshift[:, None]))
        rendered = self.basis.render(self.edges, redshift, sigma_gas, lsf)
        floor = self.log_floor.exp() * torch.einsum("fpk,fk->fp", rendered, mean).detach().abs() + 1e-4
        return measure(rendered, flux, ivar, floor)

    @staticmethod
    def _reference(flux, error):
        """A flux density [1e-17 erg/s/cm2/A] of the order of the aperture's, from whatever bands there are."""
        weight = torch.isfinite(error).to(flux.dtype)
        mean = (flux * weight).sum(-1) / weight.sum(-1).clamp(min=1)
        return 0.28 * mean.clamp(min=0.02)  # 1 nanomaggy is 0.28e-17 erg/s/cm2/A at 6200 A

    # --- training ------------------------------------------------------------------------------------------------
    def forward(self, batch, generator, image_weight=0.1, redshift_weight=0.05, hide="distance", parts=1):
        """Hide, encode, reconstruct.

        Parameters
        ----------
        batch : dict
            ``image, sigma, psf_fwhm, fiber_galaxy, fiber_offset, fiber_redshift, sigma_z, flux, ivar``, and
            ``fiber_weight`` (F,) where fibres do not count alike.
        generator : torch.Generator
            Of the masks (on the CPU, so that they do not depend on the device).
        hide : {'distance', 'random'}
            See `fiberifu.model.masking.hide_image`.
        parts : int
            See `encode`.

        Returns
        -------
        Losses
        """
        image, sigma, psf = batch["image"], batch["sigma"], batch["psf_fwhm"]
        galaxy, offset = batch["fiber_galaxy"], batch["fiber_offset"]
        flux, ivar, redshift = batch["flux"], batch["ivar"], batch["fiber_redshift"]
        size = len(image)
        first = torch.full((size,), len(galaxy), dtype=torch.int64, device=galaxy.device)
        first = first.scatter_reduce(0, galaxy, torch.arange(len(galaxy), device=galaxy.device), "amin")
        visible = hide_image(size, len(self.centres), self.centres, offset[first], generator, hide)
        n_patches = self.config.wave_size // self.config.spectrum_patch
        show = show_spectrum(size, n_patches, generator, image.device)
        context, hidden = None, ivar
        if show.shape[1]:
            index = torch.arange(size, device=galaxy.device)
            context = self.context_tokens(
                image, sigma, index, offset[first], flux[first], ivar[first], redshift[first], show
            )
            seen = torch.zeros(len(ivar), n_patches, dtype=torch.bool, device=ivar.device)
            seen[first] = seen[first].scatter(1, show, True)
            # what was shown is not scored: the noise of a pixel must not be learned as signal
            hidden = torch.where(seen.repeat_interleave(self.config.spectrum_patch, 1), 0.0, ivar)
        encoded = self.encode(image, sigma, psf, visible, context, parts)
        decoded = self.query(encoded, image, sigma, psf, galaxy, offset, redshift, batch["sigma_z"])
        misfit, fit, spread = self.spectrum_nll(decoded, flux, hidden, redshift, batch.get("fiber_weight"))
        picture = self.image_nll(encoded, visible)
        if context is None:
            edges = torch.linspace(0, 1, self.config.redshift_bins + 1, device=image.device)[1:-1]
            target = torch.bucketize(self.redshift_place(redshift[first]), edges)
            guess = nn.functional.cross_entropy(encoded.redshift_logits, target)
        else:
            guess = encoded.redshift_logits.sum() * 0.0
        total = misfit + fit + spread + image_weight * picture + redshift_weight * guess
        return Losses(total, *(x.detach() for x in (misfit, fit, spread, picture, guess)))

    def redshift_place(self, redshift):
        """Where a redshift falls in the trained range, 0 to 1, in log(z)."""
        low, high = self.config.redshift_min, self.config.redshift_max
        return (torch.log(redshift / low) / torch.log(torch.tensor(high / low))).clamp(0, 1)

    def spectrum_nll(self, decoded, flux, ivar, redshift, weight=None):
        """Losses of the spectra, averaged with ``weight`` (F,): misfit per pixel, mean and spread per coefficient.

        In one likelihood the well-predicted coefficients would outweigh the others thousands of times. So the centre is
        fitted under fixed spreads (``guide``), and the mixture around the centre as it is (Stirn et al. 2023, AISTATS,
        "Faithful heteroscedastic regression"), to all coefficients together and to lines and bands one by one.
        """
        c, basis = self.config, self.basis
        misfit, best, precision = self.measure(decoded.mean, decoded.sigma_gas, flux, ivar, redshift)
        lines = torch.ones(basis.n_coefficients - c.n_continuum, device=flux.device)
        guide = torch.cat([0.05 * lines[:1], 0.35 * basis.component_scale[1:], 0.5 * lines]).diag()
        mean, at, known = compress(decoded.mean, best, precision, c.n_continuum)
        fit = coefficient_nll(mean, guide.expand(len(flux), -1, -1), at, known)
        # the mixture in units of the continuum, in linear flux: noise is Gaussian there
        unit = decoded.mean[:, 0].detach().abs().clamp(min=1e-3)
        mixture, best, precision = (
            decoded.mixture.in_units(unit),
            best / unit[:, None],
            precision * unit[:, None, None] ** 2,
        )
        spread = mixture_nll(mixture, best, precision) / basis.n_coefficients
        functionals = basis.functionals(redshift)
        spread = spread + functional_nll(mixture, functionals, best, precision, MEASURED)
        usable = (ivar > 0).any(-1) & torch.isfinite(decoded.scale_error)
        parts = misfit, fit / basis.n_coefficients, spread
        weight = usable if weight is None else usable * weight
        return tuple(torch.where(usable, weight * x, 0.0).sum() / weight.sum().clamp(min=1) for x in parts)

    def image_nll(self, encoded, visible):
        """Mean negative log-likelihood of hidden image pixels, compressed, with their noise added in quadrature."""
        mean, log_sigma = self.patch_decoder(encoded, self.centres)
        value, noise, fraction = encoded.pixels
        score = hidden_score(mean, log_sigma, value, noise)
        weight = ((fraction > 0.5) & ~visible[:, :, None, None]).to(score.dtype)
        return (score * weight).sum() / weight.sum().clamp(min=1)


def hidden_score(mean, log_sigma, value, noise):
    """Gaussian negative log-likelihood with the pixel's own noise added to the model's."""
    variance = (2 * log_sigma).exp() + noise**2
    return 0.5 * ((value - mean) ** 2 / variance + variance.log())
