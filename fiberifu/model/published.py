"""The network of Peng et al. (2026, arXiv:2606.10197): one image, many positions -> flux and log sigma of every pixel.

``image -> patches + place of the fibre -> branches (flux, error) -> merged blocks -> decoder -> heads``

Written from the description of the architecture in the paper and its public, MIT-licensed code
(``harrypenguin/MultiModal``), with the names of its tensors, so that its state dict loads strictly. What does not
depend on the position is computed once for all positions, and what the caller does not want is not computed.

Shapes: B positions, C bands, S patches of the spectrum, E those beyond its ends, I = 64 C patches of the image,
D width. Masks are True = shown.
"""

import dataclasses
import json
import reprlib
import typing

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["PublishedConfig", "PublishedMAE", "PublishedOutput"]

TABLE = 10_000  # entries of the table of rest wavelengths, 1 Angstrom each
IMAGE_PATCH = 16  # pixels
REFINER = 32  # channels
#: Largest values of a configuration, by the ends of names: several times those of the released network.
LIMITS = {"depth": 32, "heads": 64, "_patches": 64, "embed_dim": 2048, "MLP_coefficient": 8, "patch_size": 1024}
GRID = {"wave_start": 3600.0, "wave_step": 0.8}  # of the spectrograph, Angstrom


@dataclasses.dataclass(frozen=True)
class PublishedConfig:
    """The constructor values of the published network that fix its shapes; defaults are those of the released one.

    Names are those of the public code, as they stand in the hyper-parameters of its checkpoint.
    """

    name: str = "peng2026"
    spec_dim: int = 7781
    patch_size: int = 31
    left_patches: int = 10
    right_patches: int = 10
    embed_dim: int = 256
    merged_depth: int = 4
    merged_num_heads: int = 8
    s_depth: int = 4
    e_depth: int = 4
    s_num_heads: int = 8
    e_num_heads: int = 8
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    decoder_MLP_coefficient: int = 1
    mlp_ratio: float = 4.0

    # fixed in the public code
    architecture: typing.ClassVar[str] = "peng2026"
    bands: typing.ClassVar[tuple] = ("g", "r", "i", "z", "W1", "W2")
    stamp: typing.ClassVar[int] = 128
    pixel_scale: typing.ClassVar[float] = 0.262
    aperture: typing.ClassVar[float] = 1.5
    # the public code states no range; nearly all galaxies brighter than r = 19.5 lie within this one
    redshift_min: typing.ClassVar[float] = 0.003
    redshift_max: typing.ClassVar[float] = 0.6

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            most = next((most for end, most in LIMITS.items() if field.name.endswith(end)), 20_000)
            if field.type is int and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most):
                raise ValueError(
                    f"{field.name} is {reprlib.repr(value)}; a whole number between 0 and {most:,} is needed"
                )
        if min(self.spec_dim, self.patch_size, self.embed_dim, self.decoder_embed_dim) < 1:
            raise ValueError("spec_dim, patch_size, embed_dim and decoder_embed_dim must be above zero")
        if not isinstance(self.mlp_ratio, int | float) or not 0 < self.mlp_ratio <= 16:
            raise ValueError(f"mlp_ratio is {reprlib.repr(self.mlp_ratio)}; a number between 0 and 16 is needed")
        if self.spec_dim % self.patch_size:
            raise ValueError(f"patch_size={self.patch_size} must divide spec_dim={self.spec_dim}")
        for width, heads in (
            (self.embed_dim, self.s_num_heads),
            (self.embed_dim, self.e_num_heads),
            (2 * self.embed_dim, self.merged_num_heads),
            (self.decoder_embed_dim, self.decoder_num_heads),
        ):
            if width % 4 or heads < 1 or width % heads:
                raise ValueError(f"a width of {width} must be a multiple of 4 and of its {heads} heads")

    @property
    def spectrum_patches(self):
        """Patches of the spectrum, S."""
        return self.spec_dim // self.patch_size

    @property
    def image_patches(self):
        """Patches of the image in all bands, I."""
        return len(self.bands) * (self.stamp // IMAGE_PATCH) ** 2

    @property
    def wavelength(self):
        """Vacuum wavelengths of the spectrum, ndarray (spec_dim,), Angstrom."""
        return GRID["wave_start"] + GRID["wave_step"] * np.arange(self.spec_dim)

    @property
    def extended_wavelength(self):
        """As `wavelength`, with the patches beyond either end, for which there are no data."""
        left, right = self.left_patches * self.patch_size, self.right_patches * self.patch_size
        return GRID["wave_start"] + GRID["wave_step"] * np.arange(-left, self.spec_dim + right)

    def to_json(self):
        """The configuration as JSON text."""
        return json.dumps({"architecture": self.architecture} | dataclasses.asdict(self), indent=2)

    @classmethod
    def from_dict(cls, values):
        """Build from a mapping, refusing names it does not know.

        Raises
        ------
        ValueError
            For an unknown or missing name, or a value that does not fit.
        """
        known = {f.name for f in dataclasses.fields(cls)} | {"architecture"}
        if set(values) != known or values["architecture"] != cls.architecture:
            extra, missing = sorted(set(values) - known), sorted(known - set(values))
            raise ValueError(f"configuration of {cls.architecture}: unknown names {extra}, missing names {missing}")
        return cls(**{key: value for key, value in values.items() if key != "architecture"})


@dataclasses.dataclass(frozen=True)
class PublishedOutput:
    """What the network says of B positions.

    Attributes
    ----------
    flux, log_sigma : Tensor (B, P)
        In 1e-17 erg/(s cm2 Angstrom), calibrated as DESI's spectra are, and the natural logarithm of the model's error;
        on `PublishedConfig.extended_wavelength`, P pixels.
    image, image_log_sigma : Tensor (B, C, 128, 128) or None
        The reconstructed image and the logarithm of its error.
    """

    flux: torch.Tensor
    log_sigma: torch.Tensor
    image: torch.Tensor | None = None
    image_log_sigma: torch.Tensor | None = None


class _Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x, rows):
        """Attend from the tokens ``rows`` (a slice) to all."""
        size = x.shape[-1]
        query = F.linear(x[:, rows], self.qkv.weight[:size], self.qkv.bias[:size])
        key, value = F.linear(x, self.qkv.weight[size:], self.qkv.bias[size:]).chunk(2, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    """Pre-norm attention and a two-layer network, each added to its input."""

    def __init__(self, width, heads, mlp_ratio):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = _Attention(width, heads)
        self.mlp = _MLP(width, int(width * mlp_ratio))

    def forward(self, x, rows=slice(None)):
        x = x[:, rows] + self.attn(self.norm1(x), rows)
        return x + self.mlp(self.norm2(x))


class _Projection(nn.Module):
    """A linear map of patches, kept as a convolution: so it is named in the state dict."""

    def __init__(self, convolution):
        super().__init__()
        self.proj = convolution

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


def _layers(*widths):
    """Linear layers with GELU between them."""
    parts = []
    for first, second in zip(widths, widths[1:], strict=False):
        parts += [nn.Linear(first, second), nn.GELU()]
    return nn.Sequential(*parts[:-1])


def _refiner(bands):
    widths, parts = (bands, REFINER, REFINER, REFINER, bands), []
    for first, second in zip(widths, widths[1:], strict=False):
        parts += [nn.Conv2d(first, second, 3, padding=1), nn.GELU()]
    return nn.Sequential(*parts[:-1])


class PublishedMAE(nn.Module):
    """The published network; `forward` is its figure, for positions in one image.

    Parameters
    ----------
    config : PublishedConfig
    """

    def __init__(self, config=None):
        super().__init__()
        self.config = c = config or PublishedConfig()
        width, wide, side = c.embed_dim, c.decoder_embed_dim, c.stamp // IMAGE_PATCH
        self.patch_embed1d = _Projection(nn.Conv1d(1, width, c.patch_size, c.patch_size))
        self.patch_embedimg = _Projection(nn.Conv2d(1, width, IMAGE_PATCH, IMAGE_PATCH))
        for name in ("img_modality_embed", "img_e_modality_embed", "cls_token"):
            self.register_parameter(name, nn.Parameter(torch.zeros(1, 1, width)))
        for name in ("spec_mask_token", "img_mask_token", "decoder_img_modality_embed"):
            self.register_parameter(name, nn.Parameter(torch.zeros(1, 1, wide)))
        # sin-cos tables of rest wavelengths, in the state dict although they are fixed; the first entry is the CLS's
        for name, size in (("pos_embed", width), ("decoder_pos_embed", wide)):
            table = torch.empty(1, 1 + TABLE, size)
            table = table if table.is_meta else _wavelength_table(size)  # on the meta device only shapes are wanted
            self.register_parameter(name, nn.Parameter(table, requires_grad=False))
        for name, depth, heads in (("s", c.s_depth, c.s_num_heads), ("e", c.e_depth, c.e_num_heads),
                                   ("img", c.s_depth, c.s_num_heads), ("img_e", c.e_depth, c.e_num_heads)):  # fmt: skip
            blocks = nn.ModuleList(_Block(width, heads, c.mlp_ratio) for _ in range(depth))
            setattr(self, f"{name}_attn", blocks)
        self.merged_blocks = nn.ModuleList(
            _Block(2 * width, c.merged_num_heads, c.mlp_ratio) for _ in range(c.merged_depth)
        )
        self.norm, self.merged_norm = nn.LayerNorm(width), nn.LayerNorm(2 * width)
        self.decoder_embed = nn.Linear(2 * width, wide)
        self.decoder_blocks = nn.ModuleList(
            _Block(wide, c.decoder_num_heads, c.mlp_ratio) for _ in range(c.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(wide)
        hidden = c.decoder_MLP_coefficient * wide
        for name, size in (("decoder_pred", c.patch_size), ("decoder_e_estimator", c.patch_size),
                           ("decoder_pred_img", IMAGE_PATCH**2), ("decoder_pred_img_e", IMAGE_PATCH**2)):  # fmt: skip
            setattr(self, name, _layers(wide, hidden, hidden, size))
        self.decoder_img_refiner, self.decoder_img_e_refiner = _refiner(len(c.bands)), _refiner(len(c.bands))
        self.coord_mlp, self.decoder_coord_mlp = _layers(2, width, width), _layers(2, wide, wide)
        for name, size in (("", width), ("decoder_", wide)):  # not in the state dict
            for what, table in zip(("place", "band"), _image_tables(size, side, len(c.bands)), strict=True):
                self.register_buffer(f"{name}image_{what}", table, persistent=False)

    # --- the forward pass -----------------------------------------------------------------------------------------
    def forward(
        self, image, image_error, redshift, xy, *, flux=None, flux_error=None, spectrum_shown=None, image_shown=None,
        want_image=False,
    ):  # fmt: skip
        """Spectra that fibres at ``xy`` would see.

        Parameters
        ----------
        image, image_error : Tensor (C, 128, 128)
            Nanomaggies per pixel and their 1-sigma errors, finite everywhere; bands as in the configuration.
        redshift : float
        xy : Tensor (B, 2)
            Place of the fibre in pixels from the middle of the array: x along rows, y against the row index.
        flux, flux_error : Tensor (spec_dim,), optional
            A spectrum and its errors; needed where ``spectrum_shown`` is.
        spectrum_shown : Tensor (S,) of bool, optional
            Patches of the spectrum that the network sees; by default none.
        image_shown : Tensor (I,) of bool, optional
            Patches of the image, band by band, that it sees; by default all.
        want_image : bool
            Compute the reconstructed image too.

        Returns
        -------
        PublishedOutput
        """
        c, like = self.config, self.cls_token
        xy = xy.to(like)
        if spectrum_shown is None:
            spectrum_shown = torch.zeros(c.spectrum_patches, dtype=torch.bool, device=like.device)
        if image_shown is None:
            image_shown = torch.ones(c.image_patches, dtype=torch.bool, device=like.device)
        spectra = self._encode_spectrum(flux, flux_error, redshift, xy, spectrum_shown)
        images = self._encode_image(image.to(like), image_error.to(like), xy, image_shown)
        x = torch.cat([spectra.expand(len(xy), -1, -1), images], 1)
        for block in self.merged_blocks:
            x = block(x)
        x = self.decoder_embed(self.merged_norm(x))
        return self._decode(x, redshift, xy, spectrum_shown, image_shown, want_image)

    def _encode_spectrum(self, flux, error, redshift, xy, shown):
        """CLS and shown patches through the branches of flux and error: (B or 1, 1 + shown, 2 D)."""
        x = e = self.cls_token + self.pos_embed[:, :1]
        if shown.any():  # else the CLS token is alone, and the same for all positions
            place = self._fibre_place(xy, self.config.embed_dim) + self._wave_place(self.pos_embed, redshift)[shown]
            cls = x.expand(len(xy), -1, -1)
            x, e = (
                torch.cat([cls, self.patch_embed1d(value.to(cls)[None, None])[:, shown] + place], 1)
                for value in (flux, error)
            )
        return self._branches(x, e, self.s_attn, self.e_attn)

    def _encode_image(self, image, error, xy, shown):
        """Shown patches of the image through the branches of flux and error: (B, shown, 2 D)."""
        place = self.coord_mlp(self._from_fibre(xy)).repeat(1, len(self.config.bands), 1)[:, shown]
        fixed = (self.image_place + self.image_band)[shown]
        tokens = []
        for value, modality in ((image, self.img_modality_embed), (error, self.img_e_modality_embed)):
            patches = self.patch_embedimg(value[:, None]).flatten(0, 1)[shown]  # the same for all positions
            tokens.append(patches + place + fixed + modality)
        return self._branches(*tokens, self.img_attn, self.img_e_attn)

    def _branches(self, x, e, blocks, error_blocks):
        for block in blocks:
            x = block(x)
        for block in error_blocks:
            e = block(e)
        return torch.cat([self.norm(x), self.norm(e)], -1)

    def _decode(self, x, redshift, xy, spectrum_shown, image_shown, want_image):
        c, size, wide = self.config, len(xy), self.config.decoder_embed_dim
        beyond, n_shown = (c.left_patches, c.right_patches), 1 + int(spectrum_shown.sum())
        cls, seen, seen_image = x[:, :1], x[:, 1:n_shown], x[:, n_shown:]
        spectrum = self.spec_mask_token.expand(size, sum(beyond) + c.spectrum_patches, wide).to(x)
        if n_shown > 1:
            spectrum = spectrum.index_copy(1, beyond[0] + spectrum_shown.nonzero()[:, 0], seen)
        pictures = self.img_mask_token.expand(size, c.image_patches, wide).to(x)
        pictures = pictures.index_copy(1, image_shown.nonzero()[:, 0], seen_image)
        # The public code counts the CLS token as a patch here: the table is read one patch, 24.8 Angstrom, to the red.
        place = self._wave_place(self.decoder_pos_embed, redshift, extended=True)
        spectrum = spectrum + place + self._fibre_place(xy, wide)
        pictures = pictures + self.decoder_image_place + self.decoder_image_band + self.decoder_img_modality_embed
        pictures = pictures + self.decoder_coord_mlp(self._from_fibre(xy)).repeat(1, len(c.bands), 1)
        n, x = 1 + spectrum.shape[1], torch.cat([cls, spectrum, pictures], 1)
        last = slice(1, None) if want_image else slice(1, n)
        for i, block in enumerate(self.decoder_blocks):  # of the last one only what is wanted
            x = block(x, last if i == c.decoder_depth - 1 else slice(None))
        x = self.decoder_norm(x if c.decoder_depth else x[:, last])
        s, image = x[:, : n - 1], x[:, n - 1 :]
        out = [self.decoder_pred(s).flatten(1), self.decoder_e_estimator(s).flatten(1)]
        if want_image:
            side = c.stamp // IMAGE_PATCH
            for head, refiner in ((self.decoder_pred_img, self.decoder_img_refiner),
                                  (self.decoder_pred_img_e, self.decoder_img_e_refiner)):  # fmt: skip
                tiles = head(image).unflatten(1, (len(c.bands), side, side)).unflatten(-1, (IMAGE_PATCH, IMAGE_PATCH))
                out.append(refiner(tiles.transpose(3, 4).flatten(4, 5).flatten(2, 3)))
        return PublishedOutput(*out)

    # --- where things are -----------------------------------------------------------------------------------------
    def _from_fibre(self, xy):
        """Middles of the patches of one band, relative to the fibre, in patches: (B, 64, 2)."""
        side = self.config.stamp // IMAGE_PATCH
        middle = (torch.arange(side, device=xy.device, dtype=xy.dtype) - (side - 1) / 2) * IMAGE_PATCH
        y, x = torch.meshgrid(-middle, middle, indexing="ij")
        return (torch.stack([x.flatten(), y.flatten()], -1) - xy[:, None]) / IMAGE_PATCH

    def _fibre_place(self, xy, size):
        """Sin-cos code of the fibre on the grid of patches, counted from the array's first corner: (B, 1, size)."""
        half = self.config.stamp / 2
        column, row = (xy[:, :1] + half) / IMAGE_PATCH, (half - xy[:, 1:]) / IMAGE_PATCH
        rate = 1 / 10_000.0 ** (torch.arange(size // 4, device=xy.device, dtype=xy.dtype) / (size // 4))
        code = [wave(value * rate) for value in (column, row) for wave in (torch.sin, torch.cos)]
        return torch.cat(code, -1)[:, None]

    def _wave_place(self, table, redshift, *, extended=False):
        """Sum of the table at the rest wavelengths, rounded to 1 Angstrom, of a patch's first and last pixel."""
        c = self.config
        # single precision, and in this order: rounding to whole Angstrom must fall as in the public code
        z = torch.tensor(redshift, dtype=torch.float32, device=table.device)
        step, start, n = GRID["wave_step"], GRID["wave_start"], c.spectrum_patches
        if extended:
            start, n = start - step * c.patch_size * c.left_patches, n + c.left_patches + c.right_patches
        patch = torch.arange(n + extended, device=table.device)[int(extended) :]
        first = start + patch * c.patch_size * torch.tensor(step, dtype=torch.float32, device=table.device)
        ends = [first / (1 + z), (first + (c.patch_size - 1) * step) / (1 + z)]
        return sum(table[0, 1:][end.round().long().clamp(0, TABLE - 1)] for end in ends)


def _wavelength_table(size):
    """Sin-cos codes of 0 ... 9999 after a row of zeros: (1, 10001, size), computed in double precision."""
    rate = 1 / 10_000 ** (np.arange(size // 2, dtype=float) / (size / 2))
    angle = np.arange(TABLE, dtype=float)[:, None] * rate
    table = np.concatenate([np.zeros((1, size)), np.concatenate([np.sin(angle), np.cos(angle)], 1)])
    return torch.from_numpy(table).float()[None]


def _image_tables(size, side, bands):
    """Sin-cos codes of column and row of a patch, and of its band: two tables (bands side^2, size).

    In single precision, by the libraries that the public code uses: the last digit counts.
    """
    rate = np.float32(1) / np.float32(10_000) ** (np.arange(size // 4, dtype=np.float32) / np.float32(size // 4))
    row, column = (x.reshape(-1, 1).astype(np.float32) * rate for x in np.indices((side, side)))
    place = np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)], 1)
    rate = 1 / (10_000.0 ** (torch.arange(size // 2, dtype=torch.float32) / (size // 2)))
    angle = torch.arange(bands, dtype=torch.float32)[:, None] * rate
    band = torch.cat([torch.sin(angle), torch.cos(angle)], 1)
    return torch.from_numpy(place).repeat(bands, 1), band.repeat_interleave(side**2, 0)
