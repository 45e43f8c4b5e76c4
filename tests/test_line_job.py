# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu lines``: from files of cubes to maps on the disk, and the page of them."""

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from fakes import FakePrediction

from fiberifu import cli, jobs, line_job
from fiberifu.datasets import simulated_cube
from fiberifu.formats import read_cube, write_cube
from fiberifu.lines import DAPMask, LineMaps
from fiberifu.plot import plot_line_maps
from fiberifu.provenance import Provenance


@pytest.fixture(scope="module")
def simulated():
    return simulated_cube(5, spaxel=2 * u.arcsec, size=10 * u.arcsec)


@pytest.fixture(scope="module")
def cube_file(simulated, tmp_path_factory):
    path = tmp_path_factory.mktemp("cube") / "galaxy_sim_cube.fits"
    write_cube(simulated[0], path)
    return path


def test_simulated_cube_and_truth_agree(simulated):
    """North up, East left, and lines where and as strong as the truth has them."""
    from fiberifu.lines import fit_line_maps

    cube, truth = simulated
    again, _ = simulated_cube(5, spaxel=2 * u.arcsec, size=10 * u.arcsec)
    np.testing.assert_array_equal(again.flux.value, cube.flux.value)
    maps = fit_line_maps(cube, ["Ha", "N2"], redshift=cube.meta["redshift"], lsf=cube.meta["lsf"])
    assert maps.provenance.datatype == "SIMULATED" and maps.wcs.wcs.cdelt[0] < 0 < maps.wcs.wcs.cdelt[1]
    found, true = maps.flux["N2"], truth.flux["N2"]  # no absorption below it
    pull = (found.data - true.data) / found.uncertainty.array
    assert abs(pull.mean()) < 0.8 and pull.std() < 1.7  # absorption reaches there; lines are sums of several
    straight = np.corrcoef(found.data.ravel(), true.data.ravel())[0, 1]
    mirrored = np.corrcoef(found.data.ravel(), true.data[:, ::-1].ravel())[0, 1]
    assert straight > 0.95 and straight > mirrored + 0.05
    assert np.std((maps.velocity["Ha"].data - truth.velocity["Ha"].data)[maps.snr["Ha"].data > 10]) < 6
    wave = cube.spectral_axis.to_value(u.AA)
    line_free = cube.flux.value[(wave > 5500) & (wave < 5600)]
    error = cube.uncertainty.array[0, 0, 0] ** -0.5
    assert np.std(np.diff(line_free, axis=0)) / np.sqrt(2) == pytest.approx(error, rel=0.1)


def test_lines_from_the_command_line(cube_file, simulated, tmp_path, capsys):
    folder = tmp_path / "maps"
    arguments = ["lines", str(cube_file), "--redshift", str(simulated[0].meta["redshift"]), "--lines", "Ha,N2,Hb,O3",
                 "--lsf", "3000", "-o", str(folder)]  # fmt: skip
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "galaxy_sim_maps.fits" in out and "galaxy_sim_maps.png" in out and "above 3 sigma" in out
    maps = LineMaps.read(folder / "galaxy_sim_maps.fits")
    assert maps.shape == (5, 5) and maps.lines == ("Hb", "O3_4959", "O3_5007", "N2_6548", "Ha", "N2_6583")
    assert plt.imread(folder / "galaxy_sim_maps.png").std() > 0.05
    assert cli.main(arguments) == 2 and "is not empty" in capsys.readouterr().err
    assert cli.main([*arguments, "--resume"]) == 0 and "there already" in capsys.readouterr().out
    assert cli.main([*arguments, "--overwrite", "--quiet"]) == 0 and capsys.readouterr().out == ""


def test_what_is_wrong_is_said_in_one_line(cube_file, tmp_path, capsys):
    def error(*arguments):
        assert cli.main(["lines", *map(str, arguments), "-o", str(tmp_path / "out")]) == 2
        text = capsys.readouterr().err
        assert text.startswith("fiberifu: error") and text.count("\n") == 1, text
        return text

    unknown = tmp_path / "unknown_sim_cube.fits"
    cube = read_cube(cube_file)
    cube.meta["provenance"] = Provenance(datatype="SIMULATED")
    write_cube(cube, unknown)
    assert "redshift: the cube does not tell it; give --redshift" in error(unknown)
    assert "no such file" in error(tmp_path / "absent.fits", "--redshift", 0.1)
    text = tmp_path / "text.fits"
    text.write_text("nothing")
    assert "no readable FITS" in error(text, "--redshift", 0.1)
    assert "not known" in error(cube_file, "--redshift", 0.02, "--lines", "Hx")
    assert "'magic'" in error(cube_file, "--redshift", 0.02, "--continuum", "magic")
    assert "give one, or the blue and the red arm" in error(cube_file, cube_file, cube_file)
    other = tmp_path / "other.fits"
    fits.HDUList([fits.PrimaryHDU(np.zeros((3, 3)))]).writeto(other)
    assert "not a cube of MaNGA, SAMI or fiberifu" in error(other, "--redshift", 0.1)
    assert not [file for file in (tmp_path / "out").glob("*") if file.name != "manifest.json"]


@pytest.mark.filterwarnings("default:cube:astropy.utils.exceptions.AstropyUserWarning")
def test_predicted_cubes_keep_their_name_and_their_warning(tmp_path, capsys):
    """No prediction may be mistaken for an observation: not after a fit of its lines either."""
    path = tmp_path / "x_predicted_cube.fits"
    FakePrediction.cube_of(4, 2.0, step=2.0).write(path)
    assert cli.main(["lines", str(path), "--redshift", "0.03", "-o", str(tmp_path / "out"), "--name", "mine"]) == 0
    assert "predicted pixels are correlated" in capsys.readouterr().err
    maps = LineMaps.read(tmp_path / "out" / "mine_predicted_maps.fits")
    assert maps.provenance.datatype == "PREDICTED" and (maps.flags != 0).all()


@pytest.mark.filterwarnings("default:cube:astropy.utils.exceptions.AstropyUserWarning")
def test_lists_of_spectra_give_a_table(tmp_path, capsys):
    from astropy.coordinates import SkyCoord

    path = tmp_path / "list_predicted_spectra.fits"
    FakePrediction(SkyCoord([150.0, 150.001], [2.0, 2.001], unit="deg"), step=2.0).write(path)
    assert cli.main(["lines", str(path), "--redshift", "0.03", "-o", str(tmp_path / "out")]) == 0
    table = QTable.read(tmp_path / "out" / "list_predicted_lines.ecsv")
    assert len(table) == 2 and table.meta["DATATYPE"] == "PREDICTED" and (table["Ha_flux"].value > 0).all()


def test_sami_arms(data_dir):
    folder = data_dir / "sami"
    cube = line_job.read_cube_files([folder / f"41144_A_sectors_{arm}.fits.gz" for arm in ("blue", "red")])
    assert cube.meta["medium"] == "air" and cube.shape == (4096, 50, 50)
    assert line_job.read_cube_files([folder / "41144_A_sectors_red.fits.gz"]).shape == (2048, 50, 50)


def test_page_of_maps(tmp_path):
    maps = FakePrediction.cube_of(8, 2.0).line_maps()
    figure = plot_line_maps(maps, tmp_path / "page.png", title="galaxy")
    words = [text.get_text() for text in figure.texts]
    assert any("not an observation" in text for text in words)
    assert (tmp_path / "page.png").stat().st_size > 20_000
    titles = {ax.get_title(loc="left") or ax.get_title() for ax in figure.axes}
    assert {"Hα flux", "velocity", "[N II] 6583 / Hα"} <= titles
    plt.close(figure)
    from astropy.coordinates import SkyCoord

    with pytest.raises(ValueError, match="no celestial WCS"):
        plot_line_maps(FakePrediction(SkyCoord([150.0], [2.0], unit="deg")).line_maps())


def test_intrinsic_dispersion():
    """Root of the difference of squares, its error propagated; what is narrower than the instrument is marked."""
    maps = LineMaps(["Ha"], [[5.0, 5.0]], [[1.0, 1.0]], redshift=0.03, dispersion=[[130.0, 40.0]],
                    dispersion_sigma=[[5.0, 5.0]], instrumental_dispersion=[[50.0, 50.0]])  # fmt: skip
    found = maps.intrinsic_dispersion["Ha"]
    assert found.data[0] == pytest.approx(120.0) and found.uncertainty.array[0] == pytest.approx(5 * 130 / 120)
    assert found.data[1] == 0 and found.flags[1] & DAPMask.NEARBOUND and not found.flags[0]


def test_components_bins_and_redshifts_from_the_command_line(data_dir, tmp_path, capsys, cube_file):
    """Bins are fitted once and counted as bins; each component has a file; a doubtful redshift is said."""
    folder = data_dir / "sami"
    files = [str(folder / f"209807_A_sectors_{arm}.fits.gz") for arm in ("blue", "red")]
    out = tmp_path / "out"
    assert cli.main(["lines", *files, "--redshift", "0.05386", "--lines", "Ha,NII6583,[S II] 6716", "--components", "2",
                     "-o", str(out)]) == 0  # fmt: skip
    text = capsys.readouterr().out
    assert " bins," in text and "broad_maps.fits" in text
    maps = LineMaps.read(out / "209807_A_sectors_maps.fits")
    broad = LineMaps.read(out / "209807_A_sectors_broad_maps.fits")
    multiple = (maps.flux["Ha"].flags & DAPMask.MULTICOMP) != 0
    assert multiple.any() and (~broad.flux["Ha"].mask)[multiple].all() and broad.flux["Ha"].mask[~multiple].all()
    bins = maps.meta["bins"]
    values = maps.flux["Ha"].data
    assert all(
        np.ptp(values[bins == i]) == 0 for i in np.unique(bins[bins >= 0]) if np.isfinite(values[bins == i]).all()
    )
    total, error = maps.total()["Ha"]
    assert (
        error > 3 * np.sqrt(np.nansum(maps.flux["Ha"].uncertainty.array ** 2)) * error.unit
    )  # of bins, not of spaxels
    assert jobs.describe(out / "209807_A_sectors_maps.fits").startswith("data")
    assert maps.chi2.shape == maps.shape

    redshift = read_cube(cube_file).meta["provenance"].redshift
    assert cli.main(["lines", str(cube_file), "--lines", "Ha", "-o", str(tmp_path / "own")]) == 0
    assert LineMaps.read(tmp_path / "own" / "galaxy_sim_maps.fits").redshift == pytest.approx(redshift)
    capsys.readouterr()
    with pytest.warns(AstropyUserWarning, match="0.05 was given, the file says"):
        line_job.lines_to_folder([cube_file], tmp_path / "far", table=["Ha"], redshift=0.05)
