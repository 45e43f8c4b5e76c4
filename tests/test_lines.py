"""The line table, and maps of lines in the layout of the MaNGA DAP."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from regions import CircleSkyRegion

from fiberifu.lines import (
    DAPMask,
    LineMaps,
    air_to_vacuum,
    line_table,
    read_dap_maps,
    resolve_line,
    vacuum_to_air,
)
from fiberifu.provenance import Provenance, is_predicted

LINES = ["Hb", "O3_5007", "Ha", "N2_6583", "S2_6716", "S2_6731"]
CENTER = SkyCoord(150 * u.deg, 2 * u.deg)


def celestial_wcs(shape=(6, 8)):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = CENTER.ra.deg, CENTER.dec.deg
    wcs.wcs.crpix = (shape[1] + 1) / 2, (shape[0] + 1) / 2
    wcs.wcs.cdelt = -0.5 / 3600, 0.5 / 3600
    return wcs


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    shape = (len(LINES), 6, 8)
    flux = rng.uniform(1, 9, shape)
    flux[2, 0, 0] = np.nan
    return {
        "flux": flux,
        "flux_sigma": rng.uniform(0.1, 1, shape),
        "ew": 4 * flux,
        "ew_sigma": np.full(shape, 0.5),
        "continuum": np.full(shape, 0.25),
        "dispersion": np.full(shape, 120.0),
    }


@pytest.fixture
def provenance():
    return Provenance(model_id="nano", redshift=0.03, redshift_source="user", seed=3, ebv=0.05)


@pytest.fixture
def maps(arrays, provenance):
    return LineMaps(
        LINES, **arrays, redshift=0.03, wcs=celestial_wcs(), provenance=provenance, flags=np.full((6, 8), 2)
    )


def test_strong_lines_are_those_of_the_model():
    lines = pytest.importorskip("fiberifu.model.lines")
    table = line_table()
    assert tuple(table["key"]) == lines.LINES
    assert_allclose(table["wavelength"].to_value(u.AA), list(lines.LINE_WAVELENGTH.values()), atol=1e-6)
    tied = {row["key"]: (row["tied_to"], row["ratio"]) for row in table if row["tied_to"]}
    for key, (other, ratio) in tied.items():
        assert lines.LINE_COMPONENTS[key][0] == other
        assert_allclose(ratio, lines.LINE_COMPONENTS[key][1], rtol=1e-6)


def test_line_table_is_consistent():
    table = line_table("all")
    wave = table["wavelength"]
    assert wave.unit == u.AA and table.meta["medium"] == "vacuum"
    assert (np.diff(wave) > 0).all() and len(set(table["key"])) == len(set(table["dap_name"])) == len(table)
    assert all(table["source"])
    for row in table:
        assert_allclose(int(row["dap_name"].split("-")[1]), row["wavelength"].value, atol=1)
        assert row["blue"][0] < row["blue"][1] < row["wavelength"] < row["red"][1]
        if np.isfinite(row["main"]).all():
            assert row["main"][0] < row["wavelength"] < row["main"][1]
        if row["tied_to"]:
            assert row["tied_to"] in table["key"] and 0 < row["ratio"] < 1 and row["ratio_source"]
    line_table("all").remove_rows(slice(0, 30))  # a copy: the next caller gets all
    assert len(line_table("all")) == len(table)


def test_air_and_vacuum():
    wcs_utils = pytest.importorskip("specutils.utils.wcs_utils")
    table = line_table("all")
    air = line_table("all", medium="air")
    assert air.meta["medium"] == "air"
    assert_allclose(air["wavelength"].value, wcs_utils.vac_to_air(table["wavelength"]).value, rtol=1e-12)
    row = list(table["key"]).index("Ha")
    assert_allclose(air["wavelength"][row].value, 6562.819, atol=2e-3)
    assert_allclose((air["red"] - vacuum_to_air(table["red"])).value, 0)
    assert_allclose(air_to_vacuum(air["wavelength"]).value, table["wavelength"].value, rtol=1e-12)
    with pytest.raises(ValueError, match="medium is 'water'"):
        line_table(medium="water")


def test_line_names():
    for name, key in {
        "Ha": "Ha",
        "Ha-6564": "Ha",
        "N2": "N2_6583",
        "O3": "O3_5007",
        "NII-6585": "N2_6583",
        "OII-3727": "O2_3726",
        "Halpha": "Ha",
        "Hdel-4102": "Hd",
    }.items():
        assert resolve_line(name) == key
    with pytest.raises(ValueError, match="S2_6716.*S2_6731"):
        resolve_line("S2")
    with pytest.raises(ValueError, match="'Hq' is not known.*Ha"):
        resolve_line("Hq")
    assert list(line_table(["N2", "Ha"])["key"]) == ["N2_6583", "Ha"]
    with pytest.raises(ValueError, match="'weak'"):
        line_table("weak")


def test_maps_are_nddata(maps, arrays):
    ha = maps.flux["Ha"]
    assert isinstance(ha, CCDData) and isinstance(ha.uncertainty, StdDevUncertainty)
    assert ha.unit == u.Unit("1e-17 erg / (s cm2)") and ha.wcs is maps.wcs
    assert_array_equal(ha.data, arrays["flux"][2])
    assert ha.flags.dtype.kind == "i" and ha.flags[0, 0] == DAPMask.NOVALUE | DAPMask.DONOTUSE
    assert ha.mask[0, 0] and not ha.mask[1:].any() and not ha.flags[1:].any()
    assert maps.ew["Ha-6564"].unit == u.AA
    assert "Halpha" in maps.flux and "Hg" not in maps.flux and list(maps.flux) == LINES
    with pytest.raises(ValueError, match="Hg"):
        maps.flux["Hg"]
    # No velocities can come from an image: absent, not zero.
    assert np.isnan(maps.velocity["Ha"].data).all() and (maps.velocity["Ha"].flags & DAPMask.NOVALUE).all()
    assert_allclose(maps.snr["Hb"].data, arrays["flux"][0] / arrays["flux_sigma"][0])
    assert_allclose(maps.upper_limit("Hb", nsigma=2).data, arrays["flux"][0] + 2 * arrays["flux_sigma"][0])
    assert "6 lines" in repr(maps) and "predicted" in repr(maps)


def test_ratio_errors(arrays):
    mean, sigma, rho = np.array([20.0, 10.0, 5.0]), np.array([0.4, 0.2, 0.1]), 0.7
    covariance = np.outer(sigma, sigma) * (rho + (1 - rho) * np.eye(3))
    lines = ["Ha", "S2_6716", "S2_6731"]
    draws = np.random.default_rng(0).multivariate_normal(mean, covariance, 100_000)
    for cov, truth in (
        (covariance, draws),
        (None, np.random.default_rng(0).normal(mean, sigma, (100_000, 3))),
    ):
        maps = LineMaps(lines, mean[:, None], sigma[:, None], redshift=0, covariance=None if cov is None else cov[None])
        ratio = maps.ratio("S2_6716+S2_6731", "Ha")
        assert_allclose(ratio.data, 0.75)
        assert_allclose(ratio.uncertainty.array, np.std((truth[:, 1] + truth[:, 2]) / truth[:, 0]), rtol=0.02)
    negative = LineMaps(["Ha", "Hb"], [[1.0], [-1.0]], [[0.1], [0.1]], redshift=0).ratio("Ha", "Hb")
    assert np.isnan(negative.data[0]) and negative.flags[0] & DAPMask.MATHERROR


def test_total_uses_shared_errors(arrays):
    rng = np.random.default_rng(2)
    shared, rest = rng.normal(size=(3, 1, 6, 8)), 0.5
    sigma = np.sqrt((shared**2).sum(0) + rest**2)
    flux = np.ones((1, 6, 8))
    mask = np.zeros((1, 6, 8), int)
    mask[0, 0] = DAPMask.DONOTUSE
    mask[0, 1] = DAPMask.UNRELIABLE
    draws = np.einsum("nk,kyx->nyx", rng.normal(size=(20_000, 3)), shared[:, 0])
    draws += rest * rng.normal(size=draws.shape)
    maps = LineMaps(["Ha"], flux, sigma, redshift=0, shared=shared, mask=mask)
    total, error = maps.total()["Ha"]
    assert total == 40 * u.Unit("1e-17 erg / (s cm2)")
    assert_allclose(error.value, draws[:, 1:].sum((1, 2)).std(), rtol=0.03)
    independent = LineMaps(["Ha"], flux, sigma, redshift=0).total()["Ha"][1].value
    assert_allclose(independent, np.sqrt((sigma**2).sum()))
    bound = LineMaps(["Ha"], flux, sigma, redshift=0, provenance=Provenance()).total()["Ha"][1].value
    assert_allclose(bound, sigma.sum())


def test_total_in_regions(maps):
    region = CircleSkyRegion(CENTER, 1.1 * u.arcsec)
    y, x = np.indices(maps.shape)
    inside = np.hypot(y - 2.5, x - 3.5) < 2.2
    assert maps.total(region)["Hb"] == maps.total(inside)["Hb"]
    with pytest.raises(ValueError, match="bool"):
        maps.total(np.ones((6, 8)))


def test_positions_instead_of_maps():
    positions = SkyCoord([1, 2, 3] * u.deg, [0, 0, 1] * u.deg)
    maps = LineMaps(
        ["Ha"], u.Quantity([[1, 2, 3]], "1e-16 erg/(s cm2)"), [[1, 1, 1]], redshift=0.1, positions=positions
    )
    assert_allclose(maps.flux["Ha"].data, [10, 20, 30])
    table = maps.to_table()
    assert_allclose(table["Ha_flux"].value, [10, 20, 30])
    assert_allclose(table["position"].ra.deg, [1, 2, 3])
    assert "Ha_velocity" not in table.colnames and "Ha_mask" in table.colnames
    with pytest.raises(ValueError, match="to_table"):
        maps.write("predicted.fits")
    single = LineMaps(["Ha"], [3.0], [1.0], redshift=0.1, positions=positions[0])
    assert single.flux["Ha"].data == 3 and len(single.to_table()) == 1


def test_table_of_maps(maps):
    table = maps.to_table()
    assert len(table) == 48 and table["y"][9] == 1 and table["x"][9] == 1
    assert table["position"][9].separation(maps.wcs.pixel_to_world(1, 1)) < 1e-6 * u.arcsec


@pytest.mark.parametrize(
    "change, words",
    [
        ({"flux": np.ones((2, 6, 8))}, "flux has the shape"),
        ({"ew": np.ones((6, 8, 6))}, "ew has the shape"),
        ({"covariance": np.ones((6, 6))}, "covariance has the shape"),
        ({"positions": CENTER}, "positions has the shape"),
        ({"wcs": WCS(naxis=3)}, "wcs has 3 axes"),
    ],
)
def test_wrong_shapes(arrays, change, words):
    with pytest.raises(ValueError, match=words):
        LineMaps(LINES, **{**arrays, "redshift": 0, **change})


def test_dap_maps_round_trip(maps, arrays, tmp_path):
    path = tmp_path / "galaxy_predicted_MAPS.fits"
    maps.write(path)
    with fits.open(path) as hdus:
        header = hdus["EMLINE_GFLUX"].header
        assert [header[f"C{i:02d}"] for i in range(1, 7)] == [
            "Hb-4862",
            "OIII-5008",
            "Ha-6564",
            "NII-6585",
            "SII-6718",
            "SII-6732",
        ]
        assert hdus["EMLINE_GFLUX"].shape == (6, 6, 8) and hdus["EMLINE_GFLUX_MASK"].data[2, 0, 0] & DAPMask.NOVALUE
        assert hdus["EMLINE_GFLUX"].data[2, 0, 0] == 0 and hdus["EMLINE_GFLUX_IVAR"].data.dtype.kind == "f"
        for hdu in hdus:
            assert hdu.header["DATATYPE"] == "PREDICTED" and hdu.header["ORIGIN"] == "fiberifu"
            assert hdu.header["EBVGAL"] == 0.05 and hdu.header["EXTCORR"] is False
            assert not {"MANGAID", "PLATEIFU", "VERSDAP"} & set(hdu.header)
    assert is_predicted(path)
    back = LineMaps.read(path)
    assert back.lines == maps.lines and back.redshift == 0.03 and back.provenance == maps.provenance
    assert back.ebv == 0.05 and back.extinction_corrected is False
    assert_array_equal(back.flags, maps.flags)
    for name in ("flux", "ew", "continuum", "dispersion", "velocity"):
        ours, theirs = getattr(maps, name)["Ha"], getattr(back, name)["Ha"]
        assert_allclose(theirs.data, ours.data, rtol=1e-6)
        assert_array_equal(theirs.flags, ours.flags)
        assert theirs.unit == ours.unit
    good = np.isfinite(arrays["flux"][2])
    assert_allclose(back.flux["Ha"].uncertainty.array[good], maps.flux["Ha"].uncertainty.array[good], rtol=1e-6)
    assert back.wcs.pixel_to_world(0, 0).separation(maps.wcs.pixel_to_world(0, 0)) < 1e-6 * u.arcsec


def test_dap_maps_keep_covariance(arrays, provenance, tmp_path):
    path = tmp_path / "predicted.fits"
    covariance = np.broadcast_to(np.eye(6), (6, 8, 6, 6))
    shared = np.ones((2, 6, 6, 8))
    LineMaps(
        LINES,
        **arrays,
        redshift=0.1,
        wcs=celestial_wcs(),
        provenance=provenance,
        covariance=covariance,
        shared=shared,
    ).write(path)
    back = LineMaps.read(path)
    assert_array_equal(back.covariance("Ha", "Hb").value, 0)
    assert_array_equal(back.covariance("S2_6716+S2_6731", "S2_6731").value, 1)
    assert_array_equal(back.shared, shared)


def test_dap_maps_refuse(maps, tmp_path):
    with pytest.raises(ValueError, match="predicted"):
        maps.write(tmp_path / "maps.fits")
    path = tmp_path / "predicted.fits"
    maps.write(path)
    with pytest.raises(FileExistsError, match="overwrite"):
        maps.write(path)
    maps.write(path, overwrite=True)
    with pytest.raises(ValueError, match="dap-maps"):
        maps.write(path, format="csv")
    with pytest.raises(FileNotFoundError):
        LineMaps.read(tmp_path / "absent.fits")
    path.write_text("not FITS")
    with pytest.raises(ValueError, match="predicted.fits is not a readable"):
        LineMaps.read(path)
    fits.PrimaryHDU().writeto(path, overwrite=True)
    with pytest.raises(ValueError, match="EMLINE_GFLUX"):
        LineMaps.read(path)


def test_real_dap_maps(data_dir, tmp_path):
    maps = read_dap_maps(data_dir / "manga" / "manga-7815-3702-MAPS-HYB10-GAU-MILESHC.fits.gz")
    assert len(maps.lines) == 22 and maps.shape == (42, 42)
    assert set(maps.lines) <= set(line_table("all")["key"])  # every channel is known
    assert_allclose(maps.redshift, 0.0294, atol=1e-4)
    assert maps.extinction_corrected and maps.ebv == 0.101375 and maps.provenance is None
    ha = maps.flux["Ha-6564"]
    good = ~ha.mask
    assert good.sum() > 500 and np.isfinite(ha.data[good]).all() and (ha.uncertainty.array[good] > 0).all()
    assert_allclose(ha.data[21, 21], 30, rtol=2)
    assert 20 < np.median(maps.instrumental_dispersion["Ha"].data[good]) < 100
    assert np.isnan(maps.ew["Ha"].data[0, 0]) and maps.ew["Ha"].flags[0, 0] & DAPMask.NOCOV
    corners = maps.wcs.pixel_to_world([0, 41], [0, 0])
    assert corners.ra[0] > corners.ra[1]
    # What was observed is written without the marks of a prediction, and any name will do.
    maps.write(tmp_path / "maps.fits")
    assert not is_predicted(tmp_path / "maps.fits")
    back = LineMaps.read(tmp_path / "maps.fits")
    assert back.lines == maps.lines and back.provenance is None and back.extinction_corrected
    for name in ("flux", "ew", "velocity", "dispersion"):
        for line in maps.lines:
            ours, theirs = getattr(maps, name)[line], getattr(back, name)[line]
            assert_allclose(theirs.data, ours.data, rtol=1e-6)
            assert_array_equal(theirs.flags, ours.flags)


@pytest.mark.parametrize(
    ("name", "key"),
    [("NII6583", "N2_6583"), ("[NII]6583", "N2_6583"), ("[O III] 5007", "O3_5007"), ("OIII5007", "O3_5007"),
     ("SII6731", "S2_6731"), ("halpha", "Ha"), ("HALPHA", "Ha"), ("H_beta", "Hb"), ("OI6300", "O1_6300")],
)  # fmt: skip
def test_spellings_of_other_surveys(name, key):
    assert resolve_line(name) == key


def test_a_line_that_these_maps_lack_is_known():
    with pytest.raises(ValueError, match="'O3' is not among these: Ha"):
        resolve_line("O3", known=["Ha", "Hb"])
    with pytest.raises(ValueError, match="'Hx' is not known; known are"):
        resolve_line("Hx")


def test_dust_correction_is_remembered_in_files(arrays, tmp_path):
    """Nobody corrects twice: the file says it, and chi2 and bins come along."""
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [-1e-4, 1e-4]
    maps = LineMaps(["Hb", "Ha"], np.full((2, 3, 4), 10.0), np.full((2, 3, 4), 0.5), redshift=0.02, wcs=wcs,
                    meta={"chi2": np.full((3, 4), 90.0), "degrees_of_freedom": np.full((3, 4), 100),
                          "bins": np.arange(12).reshape(3, 4) // 3})  # fmt: skip
    corrected = maps.deredden(0.3)
    corrected.write(tmp_path / "dust.fits")
    again = LineMaps.read(tmp_path / "dust.fits")
    with pytest.raises(ValueError, match="already"):
        again.deredden(0.3)
    maps.write(tmp_path / "maps.fits")
    again = LineMaps.read(tmp_path / "maps.fits")
    np.testing.assert_allclose(again.chi2.data, 0.9)
    flux, error = again.total()["Ha"]
    assert flux.value == pytest.approx(120) and error.value == pytest.approx(np.sqrt(4) * 3 * 0.5)  # four bins of three
