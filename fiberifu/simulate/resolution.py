"""Resolution matrices of fibre spectra, in the layout of DESI's files.

Shapes: N spectral pixels.
"""

import math

import torch

__all__ = ["apply_resolution", "resolution_matrix"]

N_DIAGONAL = 11  # as in the coadds of DESI's early data release


def resolution_matrix(lsf, step=0.8, *, pixel=True, n_diagonal=N_DIAGONAL):
    """Diagonals (…, n_diagonal, N) of the matrix of a Gaussian line-spread function, in DESI's layout.

    ``data[d, j]`` is what pixel ``j - offset`` receives of light at the centre of pixel j, ``offset = n_diagonal // 2
    - d``. Columns sum to one: light is conserved.

    Parameters
    ----------
    lsf : Tensor (…, N)
        1-sigma at every pixel, before integration over pixels, A.
    step : float
        A.
    pixel : bool
        Whether the integration over the receiving pixel is included, as in DESI's files, whose matrices act on
        monochromatic light at the pixels' centres. Without, it acts on means over pixels.
    """
    offset = n_diagonal // 2 - torch.arange(n_diagonal, device=lsf.device, dtype=lsf.dtype)
    sigma = lsf[..., None, :] / step
    if pixel:
        edge = torch.stack([-offset - 0.5, -offset + 0.5])[..., None] / (math.sqrt(2) * sigma[..., None, :, :])
        data = torch.erf(edge).diff(dim=-3)[..., 0, :, :] / 2
    else:
        data = torch.exp(-0.5 * (offset[:, None] / sigma) ** 2)
    return data / data.sum(-2, keepdim=True)


def apply_resolution(data, flux):
    """The product of resolution matrices (…, n_diagonal, N) with spectra (…, N).

    Light that leaves at the ends is lost and none comes in: give ``n_diagonal // 2`` pixels more on each side.
    """
    half = data.shape[-2] // 2
    n = flux.shape[-1]
    out = torch.zeros_like(flux)
    for d in range(data.shape[-2]):
        offset = half - d  # of the diagonal: row = column - offset
        part = data[..., d, :] * flux
        rows = slice(max(0, -offset), min(n, n - offset))
        columns = slice(max(0, offset), min(n, n + offset))
        out[..., rows] += part[..., columns]
    return out
