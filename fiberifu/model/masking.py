"""What a masked autoencoder hides. Masks here are True where a token stays visible."""

import torch

__all__ = ["HIDING", "hide_image", "show_spectrum"]

HIDING = ("distance", "random")


def hide_image(batch, n_tokens, centres, offsets, generator, hide="distance"):
    """Choose the image patches to show: all; a random share; or those near the fibre only.

    Hiding by distance teaches the network that a query can stand anywhere and be asked with little context
    (the remedy for fibres that sit on galaxy centres).

    Parameters
    ----------
    batch, n_tokens : int
    centres : Tensor (T, 2)
        Patch centres [arcsec].
    offsets : Tensor (B, 2)
        A fibre of each galaxy [arcsec].
    generator : torch.Generator
    hide : {'distance', 'random'}
        With 'random' a share of the patches, wherever they are, is hidden in place of the distant ones.

    Returns
    -------
    Tensor (B, T) of bool
    """
    device = centres.device
    kind = torch.rand(batch, generator=generator).to(device)
    share = 0.1 + 0.5 * torch.rand(batch, 1, generator=generator).to(device)
    random = torch.rand(batch, n_tokens, generator=generator).to(device) > share
    radius = 3.0 * 8.0 ** torch.rand(batch, 1, generator=generator).to(device)  # 3 to 24 arcsec, uniform in log
    near = torch.cdist(offsets[:, None], centres[None].expand(batch, -1, -1))[:, 0] < radius
    near = near if hide == "distance" else random
    return torch.where(kind[:, None] < 0.35, torch.ones_like(random), torch.where(kind[:, None] < 0.7, random, near))


def show_spectrum(batch, n_tokens, generator, device, hidden_share=0.5):
    """Choose the spectrum patches to show: none in ``hidden_share`` of the draws, else 5 to 60 % of them, in
    bands of 1 to 16 patches.

    Returns
    -------
    Tensor (B, n_visible) of int64
        Indices of the visible patches; as many for each galaxy, none when the spectrum is hidden.
    """
    if torch.rand((), generator=generator) < hidden_share:
        return torch.empty(batch, 0, dtype=torch.int64, device=device)
    n_visible = int(n_tokens * (0.05 + 0.55 * torch.rand((), generator=generator).item()))
    band = int(2 ** (4 * torch.rand((), generator=generator).item()))
    score = torch.rand(batch, -(-n_tokens // band), generator=generator).repeat_interleave(band, dim=1)
    score = score[:, :n_tokens] + 1e-3 * torch.rand(batch, n_tokens, generator=generator)
    return score.topk(n_visible, dim=1).indices.to(device)
