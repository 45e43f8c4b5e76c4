"""Attention blocks: the encoder sees image and context spectra, queries read it and never see each other.

Shapes: B galaxies (or F fibres), T tokens, S source tokens, D width, H heads.
"""

import torch
from torch import nn

from .tokens import rotary

__all__ = ["Attention", "Block", "Encoder"]


class Attention(nn.Module):
    """Multi-head attention whose places are sky offsets [arcsec]. ``keep`` is True where a source may be read."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def source(self, source_BSD, offset_BS2):
        """Keys and values (B, H, S, D/H), computed once for any number of queries."""
        key, value = self.key_value(source_BSD).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return rotary(key, offset_BS2), value

    def forward(self, x_BTD, offset_BT2, source, keep_BS):
        key, value = source
        query = rotary(self.query(x_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2), offset_BT2)
        out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=keep_BS[:, None, None, :])
        return self.out(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm attention + MLP with learned residual scales, started at ``scale``.

    Attributes
    ----------
    bfloat16 : bool
        Whether its products are in half precision: for GPUs. What is outside of blocks, above all the likelihood of
        spectra, needs all digits.
    """

    bfloat16 = False

    def __init__(self, width, heads, scale=1.0):
        super().__init__()
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.full((2, width), scale))

    def forward(self, x, offset, keep, source=None):
        """Self-attention, or cross-attention where ``source`` (keys, values) is given."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            h = self.norm(x)
            source = self.attention.source(h, offset) if source is None else source
            x = x + self.scale[0] * self.attention(h, offset, source, keep)
            return x + self.scale[1] * self.mlp(self.norm_mlp(x))


class Encoder(nn.Module):
    """``depth`` blocks of self-attention over the visible tokens of a galaxy.

    Hidden ones are not read; so that they cost nothing either, a batch can be encoded in ``parts``: galaxies that show
    about as many tokens together, with as many as the one that shows most of them. The result is the same but for
    rounding, and 0 where tokens are hidden.
    """

    def __init__(self, config):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens, offset, keep, parts=1):
        if parts > 1:
            return self._by_parts(tokens, offset, keep, parts)
        for block in self.blocks:
            tokens = block(tokens, offset, keep)
        return self.norm(tokens)

    def _by_parts(self, tokens, offset, keep, parts):
        order, out = keep.sum(1).argsort(), []
        for rows in order.chunk(parts):
            shown = keep[rows]
            first = shown.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(shown.sum(1).max())]
            place = first[..., None].expand(-1, -1, tokens.shape[-1])
            part = self(tokens[rows].gather(1, place), offset[rows].gather(1, place[..., :2]), shown.gather(1, first))
            out.append(part.new_zeros(tokens[rows].shape).scatter(1, place, part))
        return torch.cat(out)[order.argsort()]
