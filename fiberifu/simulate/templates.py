"""The template pack: everything the simulator knows about spectra, in one plain npz.

`build_template_pack` reads the public files once and writes the pack; `load_template_pack` needs numpy only.
`analytic_template_pack` has the same keys from a few formulae, for unit tests and examples that run offline;
no network is ever trained on it.

Keys of a pack
--------------
wave : (15309,) vacuum rest wavelength, Angstrom; d ln(wave) = 1e-4
ssp : (n_age, n_met, 15309) luminosity per mass formed, Lsun / Angstrom / Msun
log_age, log_z : (n_age,), (n_met,) log10 of age / yr and of Z / Zsun
band_wave, band_g, band_r, band_i, band_z : DECam transmission with atmosphere, at wavelengths in Angstrom
desi_wave, desi_throughput, sky_dark : (7781,) the DESI grid, throughput of spectrograph and dark sky
    (1e-17 erg/s/cm2/A/arcsec2)
gas_log_z, gas_log_u, gas_xi : axes of the photoionisation table; log10 Z/Zsun, log10 U, dust-to-metal ratio
gas_line : (n_z, n_u, n_xi, 8) log10 of line luminosity, Lsun per Msun/yr, in the order of `GAS_LINES`
agn_log_z, agn_log_u, agn_alpha : axes of the narrow-line table; alpha is the slope of the ionising spectrum
agn_line : (n_z, n_u, n_alpha, 8) log10 of line / H-alpha, in the order of `HARD_LINES`
shock_log_z, shock_log_v : axes of the shock table; log10 of the velocity / km/s
shock_line : (n_z, n_v, 8) log10 of line / H-alpha of shock and precursor, in the order of `HARD_LINES`
nebular : (15309,) continuum of ionised hydrogen per unit of H-beta, 1 / Angstrom
"""

import warnings
import zipfile
from pathlib import Path

import numpy as np

from ..data_dir import find_data_dir
from .nebular import nebular_continuum

__all__ = [
    "BANDS",
    "DESI_WAVE",
    "GAS_LINES",
    "HARD_LINES",
    "REST_WAVE",
    "analytic_template_pack",
    "build_template_pack",
    "find_data_dir",
    "load_template_pack",
]

BANDS = ("g", "r", "i", "z")
REST_WAVE = np.exp(np.log(2250.0) + 1e-4 * np.arange(15309))
DESI_WAVE = 3600.0 + 0.8 * np.arange(7781)
GAS_LINES = ("O2", "Hb", "O3_5007", "Ha", "N2_6583", "S2_6716", "S2_6731", "O3_4959")
HARD_LINES = ("O2", "Hb", "O3_5007", "O1_6300", "Ha", "N2_6583", "S2_6716", "S2_6731")
PACK_KEYS = (
    *("wave", "ssp", "log_age", "log_z", "band_wave", "band_g", "band_r", "band_i", "band_z", "nebular"),
    *("desi_wave", "desi_throughput", "sky_dark", "gas_log_z", "gas_log_u", "gas_xi", "gas_line"),
    *("agn_log_z", "agn_log_u", "agn_alpha", "agn_line", "shock_log_z", "shock_log_v", "shock_line"),
)

_BAND_WAVE = np.arange(3800.0, 10200.0, 5.0)
_SOLAR_Z = 0.01524  # Bressan+2012, the solar value of Gutkin+2016


def load_template_pack(path):
    """Read a pack written by `build_template_pack`.

    Parameters
    ----------
    path : str or path-like
        The npz file.

    Returns
    -------
    dict of str to `numpy.ndarray`

    Raises
    ------
    ValueError
        When the pack lacks tables that this version needs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: no template pack at {str(path)!r}; write one with build_template_pack")
    try:
        opened = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile):
        opened = None
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError(f"path: {str(path)!r} is not a template pack; give an npz file that build_template_pack wrote")
    with opened as file:
        missing = [key for key in PACK_KEYS if key not in file.files]
        if missing:
            raise ValueError(
                f"path: the template pack {str(path)!r} is of an older version and lacks {', '.join(missing)}; "
                "rebuild it with build_template_pack"
            )
        return {key: file[key] for key in file.files}


def build_template_pack(data_dir=None, out=None):
    """Assemble the template pack from the public files.

    MaStar SSPs (Maraston+2020; Salpeter; R about 1800; vacuum, checked against CKC14z to 5 km/s) give the
    shapes between 3622 and 10351 A. They are normalised to median one, so the luminosity per mass formed is
    that of CKC14z (Kroupa, solar), matched over 4500-7000 A and interpolated in log age. The same luminosity
    serves all metallicities: about 0.1 dex of stated uncertainty in mass, none in the spectra. Below 3622 A
    the CKC14z spectrum of that age, smoothed to R 1600 and matched over 3650-3900 A, is spliced on: there the
    metallicity is solar whatever the label (9, 19, 43 % of DECam g at z 0.15, 0.2, 0.3). Above 10351 A the
    same, matched over 10000-10350 A.

    Parameters
    ----------
    data_dir : path-like, optional
        Default: `find_data_dir`.
    out : path-like, optional
        Where to write the npz; nothing is written when `None`.

    Returns
    -------
    dict of str to `numpy.ndarray`

    Warns
    -----
    UserWarning
        Where a file has another sha256 than the one in ``data/templates.ecsv``.
    """
    from .templates_download import wrong_files

    data = find_data_dir() if data_dir is None else Path(data_dir)
    if altered := [path for path in wrong_files(data) if (data / path).is_file()]:
        warnings.warn(
            f"data_dir: {len(altered)} files in {str(data)!r}, such as {altered[0]}, are not those that the simulator "
            "was made with (by sha256); templates will differ from everybody else's",
            stacklevel=2,
        )
    pack = {"wave": REST_WAVE}
    pack["log_age"], pack["log_z"], pack["ssp"] = _read_ssps(data / "templates")
    pack.update(_read_instrument(data / "instrument"))
    pack.update(_read_gutkin(data / "lines" / "gutkin16"))
    pack.update(_read_feltre(data / "lines" / "gutkin16"))
    pack.update(_read_shocks(data / "lines" / "mappings" / "MAPPINGS_shock_grid_13_fluxes.csv"))
    pack["nebular"] = nebular_continuum(REST_WAVE)
    if out is not None:
        np.savez(out, **pack)
    return pack


def _read_ssps(folder):
    from astropy.io import fits

    files = sorted((folder / "mastar_ssp_v1.0").glob("MaStar-SSP-A*.fits.gz"))
    if not files:
        raise FileNotFoundError(f"data_dir: no MaStar SSPs under {str(folder)!r}")
    labels = [(float(f.name[12:18]), float(f.name[20:25])) for f in files]
    ages, mets = (np.unique(axis) for axis in zip(*labels, strict=True))
    log_age = np.log10(1e9 * ages)
    log_age[:3] = [6.5, 7.0, 7.5]  # file names are rounded

    with fits.open(folder / "fsps_ckc14z" / "SSP_Padova_CKC14z_Kroupa_Z0.0190.fits") as hdus:
        ckc_wave = hdus["WAVE"].data.astype(float)
        ckc_age = hdus["METADATA"].data["age"].astype(float)
        # flux at 10 pc of one solar mass -> Lsun / A; agrees with `lbol` to 5 %
        ckc = hdus["FLUX"].data.T.astype(float) * 4 * np.pi * (10 * 3.0857e18) ** 2 / 3.828e33
    ckc = np.stack([np.interp(REST_WAVE, ckc_wave, spectrum) for spectrum in ckc])
    smooth = np.exp(-0.5 * (np.arange(-12, 13) / 2.65) ** 2)  # sigma of R = 1600 in steps of 1e-4
    padded = np.pad(ckc, ((0, 0), (12, 12)), mode="edge")
    ckc = np.stack([np.convolve(s, smooth / smooth.sum(), mode="valid") for s in padded])
    # log-log in age; younger than 5 Myr (older than 13.3 Gyr) takes the end value
    log_ckc = np.log(ckc)
    position = np.clip(np.interp(log_age, np.log10(ckc_age), np.arange(ckc_age.size)), 0, ckc_age.size - 1.001)
    low, part = position.astype(int), (position % 1)[:, None]
    ckc = np.exp(log_ckc[low] * (1 - part) + log_ckc[low + 1] * part)

    def mean(spectrum, low, high):
        inside = (REST_WAVE > low) & (REST_WAVE < high)
        return spectrum[inside].mean()

    ssp = np.zeros((len(ages), len(mets), REST_WAVE.size))
    for name, (age, met) in zip(files, labels, strict=True):
        with fits.open(name) as hdus:
            shape = hdus[0].data.astype(float)
            wave = 10 ** (hdus[0].header["CRVAL1"] + hdus[0].header["CDELT1"] * np.arange(shape.size))
        i = int(np.searchsorted(ages, age))
        one = np.interp(REST_WAVE, wave, shape)
        one *= mean(ckc[i], 4500, 7000) / mean(one, 4500, 7000)
        blue, red = REST_WAVE < wave[0], REST_WAVE > wave[-1]
        one[blue] = ckc[i][blue] * mean(one, 3650, 3900) / mean(ckc[i], 3650, 3900)
        one[red] = ckc[i][red] * mean(one, 10000, 10350) / mean(ckc[i], 10000, 10350)
        ssp[i, int(np.searchsorted(mets, met))] = np.maximum(one, 0)
    if not ssp.any(-1).all():
        raise ValueError("data_dir: the MaStar grid has holes; all ages x metallicities are needed")
    return log_age, mets, ssp.astype(np.float32)


def _read_instrument(folder):
    pack = {"band_wave": _BAND_WAVE, "desi_wave": DESI_WAVE}
    for band in BANDS:
        nm, curve = np.loadtxt(folder / "decam" / f"DECam.{band}.dat", unpack=True)
        pack[f"band_{band}"] = np.interp(_BAND_WAVE, 10 * nm, curve, left=0, right=0)
    throughput = np.zeros(DESI_WAVE.size)
    for arm in "brz":
        nm, curve = np.loadtxt(folder / "desi" / f"{arm}.dat", unpack=True)
        throughput += np.interp(DESI_WAVE, 10 * nm, curve, left=0, right=0)
    pack["desi_throughput"] = throughput
    wave, sky = np.loadtxt(folder / "sky" / "spec-sky.dat", unpack=True)
    cumulative = np.concatenate([[0], np.cumsum(sky * np.gradient(wave))])
    edges = np.concatenate([DESI_WAVE - 0.4, [DESI_WAVE[-1] + 0.4]])
    sky = np.diff(np.interp(edges, np.concatenate([wave - 0.05, [wave[-1] + 0.05]]), cumulative)) / 0.8
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 0.85) ** 2)  # LSF sigma 0.68 A
    pack["sky_dark"] = np.convolve(np.pad(sky, 4, mode="edge"), kernel / kernel.sum(), mode="valid")
    return pack


def _read_gutkin(folder):
    """Gutkin+2016 at n_H = 100, solar C/O, upper mass 100 Msun; later entries (Z050 ...) are AGN tables."""
    z = [0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.010, 0.014, 0.017, 0.020, 0.030, 0.040]
    names = ["0005", "001", "002", "004", "006", "008", "010", "014", "017", "020", "030", "040"]
    log_u, xi = np.arange(-4.0, -0.9, 0.5), np.array([0.1, 0.3, 0.5])
    columns = [5, 6, 8, 10, 11, 12, 13, 7]  # the order of GAS_LINES
    table = np.full((len(z), log_u.size, xi.size, len(columns)), np.nan)
    for i, name in enumerate(names):
        rows = np.loadtxt(folder / f"nebular_emission_Z{name}.txt")
        rows = rows[(rows[:, 2] == 100) & (rows[:, 3] == 1) & (rows[:, 4] == 100)]
        for row in rows:
            j, k = np.argmin(np.abs(log_u - row[0])), np.argmin(np.abs(xi - row[1]))
            table[i, j, k] = np.log10(row[columns])
    if np.isnan(table).any():
        raise ValueError(f"data_dir: the photoionisation tables under {str(folder)!r} are incomplete")
    return {
        "gas_log_z": np.log10(np.array(z) / _SOLAR_Z),
        "gas_log_u": log_u,
        "gas_xi": xi,
        "gas_line": table,
    }


def _read_feltre(folder):
    """Narrow-line regions of Feltre+2016 at n_H = 1000 and dust-to-metal 0.3.

    The files hold only metal-rich gas, Z = 0.05 to 0.07, as narrow-line regions of massive hosts are (Groves+2006);
    `GasTables.narrow` shifts [N II] where a host is poorer.
    """
    z, names = [0.05, 0.06, 0.07], ["050", "060", "070"]
    log_u, alpha = np.arange(-5.0, -0.9, 0.5), np.array([-2.0, -1.7, -1.4, -1.2])
    columns = [4, 5, 7, 8, 10, 11, 12, 13]  # the order of HARD_LINES
    table = np.full((len(z), log_u.size, alpha.size, len(columns)), np.nan)
    for i, name in enumerate(names):
        rows = np.loadtxt(folder / f"nebular_emission_Z{name}.txt")
        for row in rows[(rows[:, 1] == 0.3) & (rows[:, 2] == 1000)]:
            j, k = np.argmin(np.abs(log_u - row[0])), np.argmin(np.abs(alpha - row[3]))
            table[i, j, k] = np.log10(row[columns] / row[10])
    if np.isnan(table).any():
        raise ValueError(f"data_dir: the narrow-line tables under {str(folder)!r} are incomplete")
    return {
        "agn_log_z": np.log10(np.array(z) / _SOLAR_Z),
        "agn_log_u": log_u,
        "agn_alpha": alpha,
        "agn_line": table,
    }


def _read_shocks(path):
    """MAPPINGS shocks with precursor, density 100 cm-3, 120-600 km/s, as distributed with spaxelsleuth.

    The file names no publication and no version of the code; ``abund`` in it is read as per cent of solar.
    """
    with open(path) as file:
        header = file.readline().strip().split(",")
    order = ("OII3726", "OII3729", "Hbeta", "OIII5007", "OI6300", "Halpha", "NII6583", "SII6716", "SII6731")
    names = ["density", "abund", "v_s", *(f"{line}_tot" for line in order)]
    rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=[header.index(name) for name in names])
    rows = rows[rows[:, 0] == 100]
    abundance, velocity, flux = np.unique(rows[:, 1]), np.unique(rows[:, 2]), rows[:, 3:]
    flux = np.concatenate([flux[:, :1] + flux[:, 1:2], flux[:, 2:]], 1)  # the order of HARD_LINES
    table = np.full((abundance.size, velocity.size, flux.shape[1]), np.nan)
    at = np.searchsorted(abundance, rows[:, 1]), np.searchsorted(velocity, rows[:, 2])
    table[at] = np.log10(flux / flux[:, HARD_LINES.index("Ha"), None])
    if np.isnan(table).any():
        raise ValueError(f"data_dir: the shock table {str(path)!r} is incomplete")
    return {"shock_log_z": np.log10(abundance / 100), "shock_log_v": np.log10(velocity), "shock_line": table}


def analytic_template_pack():
    """A pack from formulae: cooling black bodies with a Balmer break and absorption. Offline tests only.

    Returns
    -------
    dict of str to `numpy.ndarray`
        The keys of a built pack; smaller line grid.
    """
    log_age = np.log10([3.162e6, 1e7, 3.162e7, 1e8, 3e8, 1e9, 3e9, 9e9, 1.4e10])
    log_z = np.array([-1.35, -1.0, -0.7, -0.33, 0.0, 0.35])
    ssp = np.empty((log_age.size, log_z.size, REST_WAVE.size))
    for i, age in enumerate(log_age):
        for j, met in enumerate(log_z):
            temperature = 10 ** (4.35 - 0.18 * (age - 6.5)) * 10 ** (-0.04 * met)
            x = np.clip(1.438777e8 / (REST_WAVE * temperature), None, 80)
            one = REST_WAVE**-5.0 / np.expm1(x)
            one /= one[np.searchsorted(REST_WAVE, 5500)]
            step = 1 / (1 + np.exp(-(REST_WAVE - 3850) / 60))
            one *= 1 - (1 - step) * min(0.55, 0.12 + 0.1 * (age - 6.5))
            for line in (4102.9, 4341.7, 4862.7, 6564.6):
                one *= 1 - 0.25 * np.exp(-0.5 * ((age - 8.6) / 0.7) ** 2 - 0.5 * ((REST_WAVE - line) / 8) ** 2)
            for line in (5177.0, 5270.0, 5893.0):
                one *= 1 - 0.1 * 10 ** (0.3 * met) * (age > 9) * np.exp(-0.5 * ((REST_WAVE - line) / 8) ** 2)
            ssp[i, j] = one * 10 ** (-1.9 - 0.75 * (age - 7))
    pack = {"wave": REST_WAVE, "ssp": ssp.astype(np.float32), "log_age": log_age, "log_z": log_z}
    pack |= {"band_wave": _BAND_WAVE, "desi_wave": DESI_WAVE}
    for band, low, high in zip(BANDS, (3980, 5660, 7080, 8500), (5480, 7120, 8520, 10000), strict=True):
        pack[f"band_{band}"] = 0.5 / (1 + np.exp(-(_BAND_WAVE - low) / 40)) / (1 + np.exp((_BAND_WAVE - high) / 40))
    pack["desi_throughput"] = np.interp(DESI_WAVE, [3600, 4500, 6000, 8500, 9824], [0.12, 0.34, 0.4, 0.48, 0.3])
    pack["sky_dark"] = 1.5 + 6 * np.exp(-0.5 * ((DESI_WAVE[:, None] - np.arange(7300, 9800, 90)) / 0.9) ** 2).sum(1)
    z, u, xi = np.meshgrid([-2.0, -1.0, 0.0, 0.4], [-4.0, -3.0, -2.0], [0.1, 0.3, 0.5], indexing="ij")
    ha = 7.9 - 0.15 * z - 0.1 * (u + 3) - 0.2 * xi
    o3 = ha - 0.45 + 0.2 + 0.6 * (u + 3) - 0.5 * np.maximum(z, -0.7) - 0.55
    n2, s2 = ha - 0.55 + 0.9 * z, ha - 0.85 + 0.4 * z - 0.35 * (u + 3)
    lines = [ha - 0.1 - 0.2 * (u + 3), ha - 0.456, o3, ha, n2, s2, s2 - 0.12, o3 - 0.474]
    pack |= {
        "gas_log_z": z[:, 0, 0],
        "gas_log_u": u[0, :, 0],
        "gas_xi": xi[0, 0],
        "gas_line": np.stack(lines, -1),
    }
    # hard ionisation: typical ratios of Seyferts (Ho 2008) and of shocks (Allen+2008), smooth in the parameters
    z, u, alpha = np.meshgrid([0.5, 0.6, 0.7], [-4.0, -3.0, -2.0], [-2.0, -1.2], indexing="ij")
    zero, hard = np.zeros_like(z), alpha + 1.6
    lines = [0.15 - 0.48 + 0.3 * hard, zero - 0.48, 0.8 + 0.4 * (u + 3) - 0.48, -1.2 + 0.9 * hard, zero]
    lines += [0.0 - 0.1 * (u + 3) + 0.3 * hard, -0.8 - 0.2 * (u + 3), -0.9 - 0.2 * (u + 3)]
    pack |= {
        "agn_log_z": z[:, 0, 0],
        "agn_log_u": u[0, :, 0],
        "agn_alpha": alpha[0, 0],
        "agn_line": np.stack(lines, -1),
    }
    z, v = np.meshgrid([-0.4, 0.0, 0.25], [2.08, 2.4, 2.78], indexing="ij")
    zero, fast = np.zeros_like(z), v - 2.4
    lines = [zero + 0.1, zero - 0.49, 0.6 * fast + 0.2, 0.6 * fast - 0.4, zero]
    lines += [0.7 * z + 0.3 * fast - 0.25, zero - 0.55, zero - 0.65]
    pack |= {"shock_log_z": z[:, 0], "shock_log_v": v[0], "shock_line": np.stack(lines, -1)}
    pack["nebular"] = nebular_continuum(REST_WAVE)
    return pack
