"""A network of the layout that Peng et al. (2026, arXiv:2606.10197) describe, with random weights, to be timed against.

Six bands in 16 x 16 pixel patches, each channel by itself (384 tokens), and 251 patches of a spectrum and one token for
all of it; fluxes and errors of both go through four branches of four blocks (width 256, 8 heads), whose outputs side by
side go through four blocks of width 512; eight more (16 heads) decode all tokens and ten patches beyond either end of
the spectrum. Every image token knows where the fibre is, so nothing is shared among positions. The two small
convolutional networks that refine the image are left out, which makes it a little faster than theirs.

Shapes: B spectra with their images, T tokens, D width.
"""

import torch
from torch import nn

__all__ = ["PublishedLayout"]

SIDE, PATCH, BEYOND, BANDS = 16, 31, 10, 6
IMAGE_TOKENS, SPECTRUM_TOKENS = BANDS * 64, 251


def blocks(n, width, heads):
    """``n`` pre-norm blocks of attention and a network of four times the width."""
    return nn.Sequential(
        *(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(n)
        )
    )


class PublishedLayout(nn.Module):
    """Loss of a batch: Gaussian likelihood of all pixels of spectrum and image with a predicted model error."""

    def __init__(self, width=256, depth=4, merged=4, decoder=8):
        super().__init__()
        self.embed = nn.ModuleList(nn.Linear(n, width) for n in (PATCH, PATCH, SIDE**2, SIDE**2))
        self.branches = nn.ModuleList(blocks(depth, width, 8) for _ in range(4))
        self.place = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width))
        self.whole = nn.Parameter(torch.zeros(2, width))
        self.merged = blocks(merged, 2 * width, 8)
        self.to_decoder = nn.Linear(2 * width, 2 * width)
        self.hidden = nn.Parameter(torch.zeros(2 * width))
        n = SPECTRUM_TOKENS + 2 * BEYOND + 1 + IMAGE_TOKENS
        self.register_buffer(
            "position", torch.randn(n, 2 * width) * 0.02
        )  # fixed codes of place, channel and wavelength
        self.decoder = blocks(decoder, 2 * width, 16)
        self.heads = nn.ModuleList(self._head(2 * width, m) for m in (PATCH, PATCH, SIDE**2, SIDE**2))

    @staticmethod
    def _head(width, size):
        return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, size))

    def forward(self, image, image_ivar, flux, ivar, offset, hidden):
        """Loss of images (B, 6, 128, 128) and spectra (B, 7781) with inverse variances, fibres at ``offset`` (B, 2).

        ``hidden`` are the shares of spectrum and image tokens that are hidden; they are dropped before the branches.
        """
        size = len(flux)
        pieces = [x.unflatten(1, (-1, PATCH)) for x in (flux, ivar.clamp(min=1e-6).rsqrt())]
        pieces += [self._patches(x) for x in (image, image_ivar.clamp(min=1e-6).rsqrt())]
        shown = [self._shown(n, share, flux.device) for n, share in
                 zip((SPECTRUM_TOKENS, IMAGE_TOKENS), hidden, strict=True)]  # fmt: skip
        centre = torch.cartesian_prod(*[torch.arange(8.0, device=flux.device)] * 2).repeat(BANDS, 1)
        place = self.place(centre - offset[:, None])
        tokens = []
        for i, (piece, embed, branch) in enumerate(zip(pieces, self.embed, self.branches, strict=True)):
            x = embed(piece[:, shown[i // 2]])
            if i < 2:
                x = torch.cat([self.whole[i].expand(size, 1, -1), x], 1)
            else:
                x = x + place[:, shown[1]]
            tokens.append(branch(x))
        merged = torch.cat([torch.cat(tokens[:2], -1), torch.cat(tokens[2:], -1)], 1)
        merged = self.to_decoder(self.merged(merged))
        n_spectrum = SPECTRUM_TOKENS + 2 * BEYOND
        where = [
            torch.zeros(1, dtype=torch.int64, device=flux.device),
            1 + BEYOND + shown[0],
            1 + n_spectrum + shown[1],
        ]
        full = self.hidden.expand(size, len(self.position), -1).to(merged.dtype)
        full = full.index_copy(1, torch.cat(where), merged)
        decoded = self.decoder(full + self.position)
        spectrum = decoded[:, 1 + BEYOND : 1 + BEYOND + SPECTRUM_TOKENS]
        picture = decoded[:, 1 + n_spectrum :]
        outputs = [head(x) for head, x in zip(self.heads, (spectrum, spectrum, picture, picture), strict=True)]
        losses = []
        for mean, log_sigma, value, noise in (outputs[:2] + pieces[:2], outputs[2:] + pieces[2:]):
            variance = noise**2 + (2 * log_sigma.float()).clamp(-20, 20).exp()
            losses.append(0.5 * ((value - mean.float()) ** 2 / variance + variance.log()).mean())
        return sum(losses)

    @staticmethod
    def _patches(x):
        return x.unflatten(2, (8, SIDE)).unflatten(4, (8, SIDE)).permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(1, 3)

    @staticmethod
    def _shown(n, share, device):
        return torch.randperm(n, device=device)[: n - round(share * n)]
