# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Readers of the real files that the simulation is compared with; each takes the folder of the data."""

import warnings
from pathlib import Path

import numpy as np

from .origin import in_half

__all__ = ["read_atlas", "read_colours", "read_cutout_noise", "read_desi", "read_ifu_lines", "read_manga_list"]

_SDSS = "ugriz"


def read_colours(folder, half="all"):
    """Real galaxies with SDSS photometry, those of the Main sample's magnitude (Strauss et al. 2002, AJ 124, 1810).

    Extinction-corrected model magnitudes g, r, i, z; Petrosian r < 17.77; magnitudes are asinh-free (from maggies).

    Parameters
    ----------
    folder : path-like
    half : {'all', 'tuning', 'judging'}
        Split by coordinates, see `in_half`.

    Returns
    -------
    dict of ndarray
        sdss (n, 4), r (n,), redshift (n,).
    """
    from astropy.io import fits

    table = fits.getdata(Path(folder) / "colours" / "kcorrect_gst_tests_small.fits")
    flux, extinction = np.array(table["MODELFLUX"], dtype=float), np.array(table["EXTINCTION"], dtype=float)
    ivar, petro = np.array(table["MODELFLUX_IVAR"], dtype=float), np.array(table["PETROFLUX"], dtype=float)
    with np.errstate(all="ignore"):
        magnitude = 22.5 - 2.5 * np.log10(flux) - extinction
        r = 22.5 - 2.5 * np.log10(petro[:, 2]) - extinction[:, 2]
        error = 1.086 / (flux * np.sqrt(ivar))
    magnitude = magnitude - np.array([0.04, 0, 0, 0, -0.02])  # SDSS to AB: u, z (SDSS DR7 and later documentation)
    good = (r > 14) & (r < 17.77) & np.isfinite(magnitude).all(1) & (error[:, 1:] < 0.1).all(1)
    z = np.array(table["Z"], dtype=float)
    good &= (z > 0.01) & (z < 0.3)
    good &= in_half([f"{ra:.5f} {dec:+.5f}" for ra, dec in zip(table["RA"], table["DEC"], strict=True)], half)
    return {"sdss": magnitude[good, 1:], "r": r[good], "redshift": z[good]}


def read_atlas(folder, half="all"):
    """The atlas of Brown et al. (2014, ApJS 212, 18): 129 galaxies, integrated light.

    Parameters
    ----------
    folder : path-like
    half : {'all', 'tuning', 'judging'}
        Split by name, see `in_half`.

    Returns
    -------
    list of dict
        name; wave, flux: the optical spectrum alone (source 1); sed_wave, sed_flux: the whole, models included. Vacuum
        wavelengths: those of the files are in air, as the spectra behind them (Moustakas & Kennicutt 2006) are.
    """
    out = []
    paths = sorted((Path(folder) / "templates" / "brown2014").glob("*_spec.dat"))
    if not paths:
        raise FileNotFoundError(f"folder: no templates/brown2014/*_spec.dat under {str(folder)!r}")
    names = [path.name.removesuffix("_spec.dat").replace("_", " ") for path in paths]
    for path, name, kept in zip(paths, names, in_half(names, half), strict=True):
        if not kept:
            continue
        wave, flux, _, source = np.loadtxt(path, unpack=True)
        optical = source == 1
        order = np.argsort(wave)
        out.append(
            {
                "name": name,
                "wave": _vacuum(wave[optical]),
                "flux": flux[optical],
                "sed_wave": _vacuum(wave[order]),
                "sed_flux": flux[order],
            }
        )
    return out


def _vacuum(wave):
    """From air to vacuum, Angstrom (Morton 1991, ApJS 77, 119)."""
    x = (1e4 / np.maximum(wave, 2000.0)) ** 2
    return wave * (1 + 6.4328e-5 + 2.94981e-2 / (146 - x) + 2.5540e-4 / (41 - x))


def read_desi(folder):
    """DESI coadds of real targets with data: EDR files, sky and empty fibres left out.

    Returns
    -------
    list of dict
        name; redshift (NaN where no redrock file tells); seconds: exposure; effective: seconds under nominal dark
        conditions, 12.15 x TSNR2_LRG (desispec); exposures; fiber_r: magnitude of FIBERFLUX_R or NaN; arms: dict of
        (wave, flux, ivar), 1e-17 erg/s/cm2/A.
    """
    from astropy.io import fits

    folder = Path(folder) / "desi"
    out = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # units as DESI spells them
        for path in sorted(folder.glob("coadd-*.fits")):
            redshifts = {}
            redrock = path.with_name(path.name.replace("coadd-", "redrock-"))
            if redrock.exists():
                table = fits.getdata(redrock, 1)
                redshifts = dict(zip(table["TARGETID"].tolist(), table["Z"].tolist(), strict=True))
            with fits.open(path) as hdus:
                fibermap, scores = hdus["FIBERMAP"].data, hdus["SCORES"].data
                for i, row in enumerate(fibermap):
                    arms = {
                        arm: tuple(
                            np.array(hdus[f"{arm.upper()}_{key}"].data[... if key == "WAVELENGTH" else i], dtype=float)
                            for key in ("WAVELENGTH", "FLUX", "IVAR")
                        )
                        for arm in "brz"
                    }
                    has_data = all((ivar > 0).mean() > 0.5 for _, _, ivar in arms.values())
                    if row["OBJTYPE"] != "TGT" or row["COADD_EXPTIME"] <= 0 or not has_data:
                        continue
                    flux_r = float(row["FIBERFLUX_R"])
                    out.append(
                        {
                            "name": f"{path.stem.removeprefix('coadd-')} {row['TARGETID']}",
                            "redshift": redshifts.get(int(row["TARGETID"]), np.nan),
                            "seconds": float(row["COADD_EXPTIME"]),
                            "effective": 12.15 * float(scores["TSNR2_LRG"][i]),
                            "exposures": int(row["COADD_NUMEXP"]),
                            "fiber_r": 22.5 - 2.5 * np.log10(flux_r) if flux_r > 0 else np.nan,
                            "arms": arms,
                        }
                    )
    return out


def read_manga_list(folder):
    """Real MaNGA spaxel spectra with S/N above 5.

    Returns
    -------
    list of dict
        name, redshift, wave, flux, sigma (inf where masked), resolution: 1-sigma of the LSF, km/s, median.
    """
    from astropy.io import fits

    out = []
    with fits.open(Path(folder) / "manga" / "MaNGA_test_spectra.fits.gz") as hdus:
        data = {h.name: np.array(h.data, dtype=float) for h in hdus[1:]}
    for i, z in enumerate(data["Z"]):
        good = (data["MASK"][i] == 0) & (data["IVAR"][i] > 0)
        sigma = np.where(good, 1 / np.sqrt(np.where(good, data["IVAR"][i], 1)), np.inf)
        if good.mean() < 0.5 or np.median(data["FLUX"][i][good] / sigma[good]) < 5:
            continue
        resolution = 299792.458 / 2.3548 / np.median(data["SRES"][i][good])
        row = {"name": f"MaNGA spectrum {i}", "redshift": z, "wave": data["WAVE"], "flux": data["FLUX"][i]}
        out.append(row | {"sigma": sigma, "resolution": resolution})
    return out


def read_ifu_lines(folder, *, snr=5):
    """Line fluxes of real spaxels: MaNGA 7815-3702 (DAP MAPS) and SAMI 41144 and 209807, S/N above ``snr`` in each.

    Returns
    -------
    dict of ndarray
        source (n,) of str, and Ha, Hb, N2, O3, S2, O1 (n,): [S II] is the sum of both, [O I] NaN where weaker.
    """
    from astropy.io import fits

    folder = Path(folder)
    rows = []
    with fits.open(next((folder / "manga").glob("manga-*-MAPS-*.fits.gz"))) as hdus:
        header = hdus["EMLINE_GFLUX"].header
        channel = {header[k]: int(k[1:]) - 1 for k in header if k[0] == "C" and k[1:].isdigit() and len(k) == 3}
        flux, ivar, mask = (np.array(hdus["EMLINE_GFLUX" + x].data) for x in ("", "_IVAR", "_MASK"))
        names = {"Ha": "Ha-6564", "Hb": "Hb-4862", "N2": "NII-6585", "O3": "OIII-5008", "O1": "OI-6302"}
        planes = {}
        for key, name in names.items():
            i = channel[name]
            planes[key] = flux[i], np.where((ivar[i] > 0) & (mask[i] == 0), ivar[i], 0)
        a, b = channel["SII-6718"], channel["SII-6732"]
        both = (ivar[a] > 0) & (ivar[b] > 0) & (mask[a] == 0) & (mask[b] == 0)
        with np.errstate(divide="ignore"):
            planes["S2"] = flux[a] + flux[b], np.where(both, 1 / (1 / ivar[a] + 1 / ivar[b]), 0)
        bins = np.array(hdus["BINID"].data)[-1]
        _, first = np.unique(bins, return_index=True)  # one spaxel of each bin
        unique = np.zeros(bins.size, dtype=bool)
        unique[first] = True
        rows.append(("MaNGA 7815-3702", planes, unique.reshape(bins.shape)))
    files = {"Ha": "Halpha", "Hb": "Hbeta", "N2": "NII6583", "O3": "OIII5007", "O1": "OI6300"}
    for name in ("41144", "209807"):
        planes = {key: _sami(folder, name, stem) for key, stem in files.items()}
        (f1, i1), (f2, i2) = _sami(folder, name, "SII6716"), _sami(folder, name, "SII6731")
        with np.errstate(divide="ignore"):
            planes["S2"] = f1 + f2, np.where((i1 > 0) & (i2 > 0), 1 / (1 / i1 + 1 / i2), 0)
        rows.append((f"SAMI {name}", planes, np.ones(f1.shape, dtype=bool)))
    out = {key: [] for key in ("source", "Ha", "Hb", "N2", "O3", "S2", "O1")}
    for name, planes, keep in rows:
        strong = {key: flux * np.sqrt(ivar) > snr for key, (flux, ivar) in planes.items()}
        good = keep & strong["Ha"] & strong["Hb"] & strong["N2"] & strong["O3"] & strong["S2"]
        for key, (flux, _) in planes.items():
            out[key].append(np.where(strong[key], flux, np.nan)[good])
        out["source"].append(np.full(good.sum(), name))
    return {key: np.concatenate(value) for key, value in out.items()}


def _sami(folder, name, stem):
    from fiberifu.surveys.sami import read_sami_map

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ccd = read_sami_map(folder / "sami" / f"{name}_A_{stem}_default_1-comp.fits")
    sigma = ccd.uncertainty.array
    good = ~ccd.mask
    return np.where(good, ccd.data, 0.0), np.where(good, 1 / np.where(good, sigma, 1.0) ** 2, 0.0)


def read_cutout_noise(folder):
    """1-sigma noise per pixel of a real DR9 cutout, nanomaggy: median of the inverse variance, g, r, z."""
    from astropy.io import fits

    with fits.open(Path(folder) / "legacysurvey" / "cutout_59.1067_-30.4848.fits") as hdus:
        out = {}
        for hdu in hdus[1:]:
            if "inv" in str(hdu.header.get("IMAGETYP", "")).lower():
                ivar = np.array(hdu.data, dtype=float)
                out[hdu.header["BAND"].strip()] = float(np.median(ivar[ivar > 0]) ** -0.5)
    return out
