"""Emission lines of the simulated gas: photoionisation tables, diffuse gas, active nuclei, old stars.

A gas component is a vector of 15 intrinsic line luminosities; a galaxy is a sum of maps times such vectors.
"""

import itertools
import math

import torch

from ..model.lines import LINE_WAVELENGTH, LINES
from .stars import calzetti

__all__ = ["GAS_COMPONENTS", "GasTables", "LINES", "LINE_WAVELENGTH", "SIDEBANDS"]

GAS_COMPONENTS = ("hii_inner", "hii_outer", "hii_clump", "diffuse", "narrow", "wind", "decoupled", "old")

#: Blue and red sidebands of the pseudo-continua, vacuum Angstrom (MaNGA DAP elpmpl11; Belfiore+2019).
SIDEBANDS = {
    "O2_3726": ((3706.3, 3716.3), (3738.6, 3748.6)),
    "O2_3729": ((3706.3, 3716.3), (3738.6, 3748.6)),
    "Ne3_3869": ((3806.5, 3826.5), (3900.2, 3920.2)),
    "Hd": ((4082.0, 4092.9), (4112.9, 4132.9)),
    "Hg": ((4311.7, 4331.7), (4349.7, 4358.7)),
    "Hb": ((4798.9, 4838.9), (4885.6, 4925.6)),
    "O3_4959": ((4930.3, 4950.3), (4970.3, 4990.3)),
    "O3_5007": ((4978.2, 4998.2), (5028.2, 5048.2)),
    "He1_5876": ((5847.2, 5867.2), (5887.2, 5907.2)),
    "O1_6300": ((6272.0, 6292.0), (6312.0, 6332.0)),
    "N2_6548": ((6483.0, 6513.0), (6623.0, 6653.0)),
    "Ha": ((6483.0, 6513.0), (6623.0, 6653.0)),
    "N2_6583": ((6483.0, 6513.0), (6623.0, 6653.0)),
    "S2_6716": ((6690.0, 6708.0), (6748.0, 6768.0)),
    "S2_6731": ((6690.0, 6708.0), (6748.0, 6768.0)),
}

# case B at 1e4 K relative to H-beta (Osterbrock & Ferland 2006, table 4.4)
_HD, _HG = 0.259, 0.468


def assemble(ha, hb, o2, o3, n2, s2, o1, ne3, he1, *, o2_ratio, s2_ratio):
    """The 15 line luminosities (..., 15) in the order of `LINES` from the free ones.

    ``o2`` is the sum of the doublet and ``o2_ratio`` = 3729 / 3726; ``s2`` likewise with ``s2_ratio`` = 6716
    / 6731. Fixed: [O III] 5007 / 4959 = 2.98, [N II] 6583 / 6548 = 3.05 (Storey & Zeippen 2000).
    """
    value = {
        "O2_3726": o2 / (1 + o2_ratio),
        "O2_3729": o2 * o2_ratio / (1 + o2_ratio),
        "Ne3_3869": ne3,
        "Hd": _HD * hb,
        "Hg": _HG * hb,
        "Hb": hb,
        "O3_4959": o3 / 2.98,
        "O3_5007": o3,
        "He1_5876": he1,
        "O1_6300": o1,
        "N2_6548": n2 / 3.05,
        "Ha": ha,
        "N2_6583": n2,
        "S2_6716": s2 * s2_ratio / (1 + s2_ratio),
        "S2_6731": s2 / (1 + s2_ratio),
    }
    return torch.stack(torch.broadcast_tensors(*[value[line] for line in LINES]), -1)


def interpolate(axes, table, point):
    """Multilinear interpolation, clipped to the table.

    Parameters
    ----------
    axes : list of Tensor (n_i,)
        Rising.
    table : Tensor (n_1, ..., n_k, L)
    point : sequence of k Tensors (...)

    Returns
    -------
    Tensor (..., L)
    """
    low, part = [], []
    for axis, x in zip(axes, point, strict=True):
        x = x.clamp(axis[0], axis[-1])
        high = torch.searchsorted(axis, x.contiguous()).clamp(1, len(axis) - 1)
        low.append(high - 1)
        part.append((x - axis[high - 1]) / (axis[high] - axis[high - 1]))
    out = 0
    for corner in itertools.product((0, 1), repeat=len(axes)):
        weight = math.prod(p if up else 1 - p for p, up in zip(part, corner, strict=True))
        out = out + weight[..., None] * table[tuple(i + up for i, up in zip(low, corner, strict=True))]
    return out


class GasTables:
    """Line luminosities of H II regions, narrow-line regions and shocks from the pack, of other gas from ratios.

    Parameters
    ----------
    pack : dict
    device : str or `torch.device`
    """

    def __init__(self, pack, device="cpu"):
        def tensor(key):
            return torch.as_tensor(pack[key], dtype=torch.float32, device=device)

        self.hii_table = [tensor("gas_log_z"), tensor("gas_log_u"), tensor("gas_xi")], tensor("gas_line")
        self.agn_table = [tensor("agn_log_z"), tensor("agn_log_u"), tensor("agn_alpha")], tensor("agn_line")
        self.shock_table = [tensor("shock_log_z"), tensor("shock_log_v")], tensor("shock_line")
        self.wave = torch.tensor([LINE_WAVELENGTH[line] for line in LINES], device=device)
        self.k = calzetti(self.wave)

    def transmission(self, ebv):
        """Fraction of line light that leaves behind E(B-V) of the gas: (..., 15)."""
        return torch.exp(-0.4 * math.log(10) * ebv[..., None] * self.k)

    def hii(self, log_z, log_u, xi, *, n_over_o, oxygen_one, neon, helium):
        """H II regions: (..., 15) Lsun per Msun/yr of constant star formation.

        [O II], Balmer, [O III], [N II], [S II] are those of Gutkin+2016 (n_H = 100 cm-3, C/O solar, 100
        Msun); [Ne III] = 0.075 x [O III] 5007 (typical of H II regions; Perez-Montero+2007), He I 5876 =
        0.038 x H-alpha (0.11 of H-beta), [O I] 6300 = 0.06 x [S II] (a choice).

        Parameters
        ----------
        log_z, log_u, xi : Tensor
            log10 Z/Zsun, log10 ionisation parameter, dust-to-metal ratio; clipped to the grid.
        n_over_o, oxygen_one, neon, helium : Tensor
            Offsets in dex of [N II], [O I], [Ne III] and He I: scatter that no image shows.
        """
        o2, hb, o3, ha, n2, s2a, s2b, _ = (10 ** interpolate(*self.hii_table, (log_z, log_u, xi))).unbind(-1)
        s2 = s2a + s2b
        return assemble(
            ha,
            hb,
            o2,
            o3,
            n2 * 10**n_over_o,
            s2,
            0.06 * s2 * 10**oxygen_one,
            0.075 * o3 * 10**neon,
            0.038 * ha * 10**helium,
            o2_ratio=torch.full_like(ha, 1.35),
            s2_ratio=s2a / s2b,
        )

    def narrow(self, log_z, log_u, alpha):
        """Narrow-line regions of active nuclei: (..., 15) relative to H-alpha = 1 (Feltre+2016).

        Parameters
        ----------
        log_z : Tensor
            log10 Z/Zsun of the gas; where the table ends (it is metal-rich), [N II] falls as Z^0.7 below it.
        log_u, alpha : Tensor
            log10 ionisation parameter; slope of the ionising spectrum. Clipped to the table.
        """
        poor = (log_z - self.agn_table[0][0][0]).clamp(max=0)
        return self._hard(interpolate(*self.agn_table, (log_z, log_u, alpha)), 0.7 * poor)

    def shock(self, log_z, log_v):
        """Shocks with their precursors: (..., 15) relative to H-alpha = 1 (a MAPPINGS grid)."""
        return self._hard(interpolate(*self.shock_table, (log_z, log_v)), torch.zeros_like(log_z))

    @staticmethod
    def _hard(table, nitrogen):
        """[Ne III] = 0.18 x [O III] 5007 (median of the shock table), He I 5876 = 0.04 x H-alpha."""
        o2, hb, o3, o1, ha, n2, s2a, s2b = (10**table).unbind(-1)
        return assemble(
            *(ha, hb, o2, o3, n2 * 10**nitrogen, s2a + s2b, o1, 0.18 * o3, 0.04 * ha),
            o2_ratio=torch.ones_like(ha),
            s2_ratio=s2a / s2b,
        )

    @staticmethod
    def ratios(o3_hb, n2_ha, s2_ha, o1_ha, o2_hb, balmer=2.86):
        """Gas of given log10 ratios: (..., 15) relative to H-alpha = 1."""
        ha = torch.ones_like(o3_hb)
        hb = ha / balmer
        o3 = hb * 10**o3_hb
        return assemble(
            ha,
            hb,
            hb * 10**o2_hb,
            o3,
            10**n2_ha,
            10**s2_ha,
            10**o1_ha,
            0.1 * o3,
            0.036 * ha,
            o2_ratio=1.25 * ha,
            s2_ratio=1.2 * ha,
        )
