# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Small files in the formats of DESI and SDSS, and what is true of any spectrum of them that a reader gives."""

import numpy as np
from astropy.io import fits
from damage import table_hdu

from fiberifu.surveys import fiber_context, fiber_spectrum, select_galaxies

FLUX_UNIT, IVAR_UNIT = "10**-17 erg/(s cm2 Angstrom)", "10**+34 (s2 cm4 Angstrom2) / erg2"
ARMS = {"B": (0, 60), "R": (50, 110), "Z": (100, 160)}  # pixels of the joint grid; real arms have up to 2881
IDS = np.array([39633345008634465, 39633345008634466, 616088619186127404, 39633345008634468])


# ---------------------------------------------------------------- DESI
def desi_hdus(seed=0, *, exposures=False, sigma=0.72):
    """A coadd of four fibres, two galaxies, sky, and a failed one; or as a file of exposures (``spectra-*``)."""
    rng, n = np.random.default_rng(seed), len(IDS)
    dec = 2 + 0.01 * np.arange(n)
    fixed = {"OBJTYPE": ["TGT", "TGT", "SKY", "TGT"], "MORPHTYPE": ["EXP", "DEV", "", "REX"], "EBV": np.full(n, 0.03)}
    fixed |= {f"{name}_{b}": np.float32([3, 4, 0, 5]) for b in "GRZ" for name in ("FLUX", "FIBERFLUX", "FLUX_IVAR")}
    status, mean = ("FIBERSTATUS", "") if exposures else ("COADD_FIBERSTATUS", "MEAN_")
    table = {"TARGETID": IDS, status: np.int32([0, 0, 0, 1 << 9]), "TARGET_RA": np.full(n, 150.0), "TARGET_DEC": dec}
    table |= fixed | {f"{mean}FIBER_RA": np.full(n, 150.00002), f"{mean}FIBER_DEC": dec}
    table[f"{mean}PSF_TO_FIBER_SPECFLUX"] = np.float32([0.7, 0.75, 0, 0])
    hdus = [fits.PrimaryHDU(), table_hdu("FIBERMAP", table)]
    hdus[0].header.update({"SURVEY": "main", "PROGRAM": "bright", "HPXPIXEL": 27247})
    if not exposures:
        row = np.repeat(np.arange(n), 3)
        # of the second target one exposure of three failed, ten arcseconds off
        failed = np.arange(3 * n) == 4
        values = {"TARGETID": IDS[row], "FIBER_RA": np.full(3 * n, 150.00002), "FIBER_DEC": dec[row] + failed / 360}
        values |= {"FIBERSTATUS": np.where(failed | (row == 3), 1 << 9, 0).astype(np.int32)}
        values |= {"PSF_TO_FIBER_SPECFLUX": np.where(failed, 0, table["MEAN_PSF_TO_FIBER_SPECFLUX"][row])}
        hdus.append(table_hdu("EXP_FIBERMAP", values))
    signal = 10 + rng.normal(0, 1, (n, 160))
    for arm, (start, stop) in ARMS.items():
        wave = 3600 + 0.8 * np.arange(start, stop)
        flux = signal[:, start:stop].astype(np.float32)
        ivar = np.full(flux.shape, {"B": 1.0, "R": 3.0, "Z": 2.0}[arm], np.float32)
        ivar[3] = 0
        mask = np.zeros(flux.shape, np.int32)
        mask[0, 5] = 1
        offset = 5 - np.arange(11)
        matrix = np.exp(-0.5 * offset**2 / (sigma**2 / 0.64 + 1 / 12))
        matrix = np.float32(np.tile((matrix / matrix.sum())[:, None], (n, 1, stop - start)))
        images = {"WAVELENGTH": wave, "FLUX": flux, "IVAR": ivar, "MASK": mask, "RESOLUTION": matrix}
        units = {"WAVELENGTH": "Angstrom", "FLUX": FLUX_UNIT, "IVAR": IVAR_UNIT}
        for name, array in images.items():
            hdus.append(fits.ImageHDU(array, name=f"{arm}_{name}"))
            if name in units:
                hdus[-1].header["BUNIT"] = units[name]
    return fits.HDUList(hdus)


def redrock_hdus():
    """Redshifts in another order than the coadd's, of the sky and of a star too."""
    order = [2, 3, 0, 1]
    table = {"TARGETID": IDS[order], "Z": np.array([1.5, 0.2, 0.03, 0.05]), "ZERR": np.full(4, 1e-5)}
    table |= {"ZWARN": np.array([4, 0, 0, 0]), "DELTACHI2": np.array([2.0, 60, 900, 30])}
    return fits.HDUList([fits.PrimaryHDU(), table_hdu("REDSHIFTS", table | {"SPECTYPE": ["GALAXY"] * 4})])


# ---------------------------------------------------------------- SDSS
def sdss_hdus(seed=0, *, plate=585, instrument="SDSS"):
    """``spec-*.fits`` of a galaxy at z = 0.05, 300 pixels, by the data model."""
    rng, n = np.random.default_rng(seed), 300
    and_mask = np.zeros(n, np.int32)
    and_mask[7], and_mask[8] = 1 << 23, 1 << 20  # bright sky; scattered light, which is no reason
    ivar = np.full(n, 4, np.float32)
    ivar[3] = 0
    coadd = {"flux": np.float32(rng.normal(20, 0.5, n)), "loglam": np.float32(3.58 + 1e-4 * np.arange(n)), "ivar": ivar}
    coadd |= {"and_mask": and_mask, "or_mask": and_mask, "wdisp": np.full(n, 1.1, np.float32)}
    row = {
        "PLATE": [plate],
        "MJD": [52027],
        "FIBERID": [12],
        "PLUG_RA": [150.0],
        "PLUG_DEC": [2.0],
        "Z": [np.float32(0.05)],
    }
    row |= {"Z_ERR": [np.float32(1e-5)], "ZWARNING": [0], "CLASS": ["GALAXY"], "SUBCLASS": ["STARFORMING"]}
    row |= {"RCHI2DIFF": [np.float32(0.4)], "DOF": [280], "SPECOBJID": ["658744712123456512"], "OBJTYPE": ["GALAXY"]}
    row |= {"MODELFLUX": np.float32([[1, 2, 3, 4, 5]])} | ({"INSTRUMENT": [instrument]} if instrument else {})
    hdus = [fits.PrimaryHDU(), table_hdu("COADD", coadd), table_hdu("SPECOBJ", row)]
    hdus[0].header.update({"BUNIT": "1E-17 erg/cm^2/s/Ang", "TELESCOP": "SDSS 2.5-M", "VACUUM": True})
    return fits.HDUList(hdus)


# ---------------------------------------------------------------- what comes of it
def check_spectra(spectra):
    """The spectrum, and its table, are what their reader promises."""
    fibers = spectra.meta["fibers"]
    flux, ivar = spectra.flux.value, spectra.uncertainty.array
    assert np.isfinite(flux).all() and np.isfinite(ivar).all() and (ivar >= 0).all()
    assert spectra.mask.shape == flux.shape == ivar.shape and ((ivar == 0) == spectra.mask).all()
    assert flux.shape in ((len(fibers), 7781), (len(spectra.spectral_axis),)) and len(fibers) > 0
    assert (flux[spectra.mask] == 0).all()
    lsf = spectra.meta["lsf"]
    assert lsf is None or (lsf.shape == flux.shape and (np.isnan(lsf.value) | (lsf.value > 0)).all())
    assert all(fibers["status"]) and fibers["flags"].dtype.kind == "i" and fibers["position"].shape == (len(fibers),)
    if flux.ndim == 2:
        assert select_galaxies(spectra).shape[1] == 7781
    for row in range(len(fibers)):
        one = fiber_spectrum(spectra, row)
        assert one.flux.shape == (flux.shape[-1],)
        try:
            assert len(fiber_context(spectra, [row])) == 1
        except ValueError as error:
            assert "of no use" in str(error)
