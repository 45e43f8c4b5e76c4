# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Make ``tests/data/published_reference.npz``: what the public code of Peng et al. (2026) says on tiny random weights.

Run by hand, with a checkout of the public code (github.com/harrypenguin/MultiModal) and what it imports (timm,
pytorch_lightning, zarr, pandas, wandb)::

    python tests/make_published_reference.py CHECKOUT

Weights and inputs are sines of counters (`filled`, `inputs`), so that only the answers need be stored: flux and log
sigma of the tiny network, in double precision, for all settings of the masks below.
"""

import sys
from pathlib import Path

import numpy as np

__all__ = ["CONFIG", "MASKS", "filled", "inputs"]

REFERENCE = Path(__file__).parent / "data" / "published_reference.npz"
CONFIG = {"spec_dim": 62, "patch_size": 31, "left_patches": 1, "right_patches": 1, "embed_dim": 8, "merged_depth": 1,
          "merged_num_heads": 2, "s_depth": 2, "e_depth": 1, "s_num_heads": 2, "e_num_heads": 4,
          "decoder_embed_dim": 12, "decoder_depth": 2, "decoder_num_heads": 3,
          "decoder_MLP_coefficient": 1}  # fmt: skip
MASKS = {"predict": (1, 0), "half": (0.5, 0.5), "all": (0, 0)}  # hidden shares of spectrum and image


def filled(state):
    """A state dict of the same shapes, filled with sines; the fixed tables are left alone."""
    import torch

    out = {}
    for i, (key, value) in enumerate(sorted(state.items())):
        counter = torch.arange(value.numel(), dtype=torch.float64).reshape(value.shape)
        sines = 0.3 * torch.sin(1.7 * counter + 0.9 * i) + (1 if "norm" in key and key.endswith("weight") else 0)
        out[key] = value.double() if key.endswith("pos_embed") else sines
    return out


def inputs():
    """Image and errors (6, 128, 128), spectrum and errors (62,), places (3, 2), redshift."""
    import torch

    counter = torch.arange(6 * 128 * 128, dtype=torch.float64).reshape(6, 128, 128)
    image, error = torch.sin(0.01 * counter), 0.1 + 0.05 * torch.cos(0.03 * counter)
    pixel = torch.arange(62, dtype=torch.float64)
    xy = torch.tensor([[0.0, 0.0], [12.3, -40.7], [-63.0, 31.5]], dtype=torch.float64)
    return image, error, 5 + torch.sin(0.4 * pixel), 0.5 + 0.2 * torch.cos(pixel), xy, 0.0301


def main(checkout):
    """Run the public code and store what it says."""
    import torch

    sys.path.insert(0, checkout)
    from models.mae import MaskedAutoencoderViT

    model = MaskedAutoencoderViT(**CONFIG).double().eval()
    model.load_state_dict(filled(model.state_dict()))
    image, error, flux, flux_error, xy, redshift = inputs()
    batch = [x.expand(len(xy), *x.shape) for x in (flux, flux_error**-2, flux_error, image, error**-2, error)]
    found = {}
    for name, (model.mask_ratio, model.mask_ratio_img) in MASKS.items():
        torch.manual_seed(1)
        with torch.no_grad():
            out = model(*batch, torch.full((len(xy),), redshift), xy)
        found |= {f"{name}_flux": out[3].numpy(), f"{name}_log_sigma": out[4].numpy(), f"{name}_hidden": out[7].numpy()}
    np.savez_compressed(REFERENCE, **found)
    print(REFERENCE, REFERENCE.stat().st_size, "bytes")


if __name__ == "__main__":
    main(sys.argv[1])
