"""Atomic files, output folders, and the provenance cards."""

import errno
import json
import os

import numpy as np
import pytest
from astropy.io import fits

from fiberifu.output import atomic_path, prepare_output_folder, settings_hash
from fiberifu.provenance import Provenance, check_file_name, is_predicted, refuse_predicted


def test_atomic_write_replaces_only_when_complete(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".txt"
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError, match="half way"), atomic_path(path) as temporary:
        temporary.write_text("two")
        raise RuntimeError("half way")
    assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_write_refuses(tmp_path):
    path = tmp_path / "a.txt"
    path.touch()
    with pytest.raises(FileExistsError, match="overwrite=True"), atomic_path(path, overwrite=False):
        pass
    with pytest.raises(IsADirectoryError, match="name of a file"), atomic_path(tmp_path):
        pass
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_path(tmp_path / "nowhere" / "a.txt"):
        pass


@pytest.mark.parametrize(
    "number, words", [(errno.ENOSPC, "full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")]
)
def test_disk_errors_name_the_file(tmp_path, number, words):
    with (
        pytest.raises(OSError, match=rf"a\.fits.*{words}") as caught,
        atomic_path(tmp_path / "a.fits") as temporary,
    ):
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    assert caught.value.errno == number
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "words", ["Not enough space on disk: requested 363200, available 0.", "40000 requested and 8720 written"]
)
def test_full_disk_in_the_words_of_astropy_and_numpy(tmp_path, words):
    with pytest.raises(OSError, match="disk is full"), atomic_path(tmp_path / "a.fits"):
        raise OSError(words)


def test_errors_about_other_files_pass(tmp_path):
    with pytest.raises(PermissionError, match="input.fits"), atomic_path(tmp_path / "a.fits"):
        raise PermissionError(errno.EACCES, "Permission denied", "input.fits")


def test_output_folder(tmp_path):
    folder = tmp_path / "deep" / "out"
    settings = {"redshift": 0.03, "size": 30}
    assert prepare_output_folder(folder, settings=settings) == folder
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["settings"] == settings
    assert manifest["settings_sha256"] == settings_hash({"size": 30, "redshift": 0.03})
    (folder / ".0123abcd-cube_predicted.fits").touch()
    prepare_output_folder(folder, settings=settings)  # a killed run left no result: nothing is in the way
    with pytest.raises(FileExistsError, match="not empty"):  # but it may be running still, under its own settings
        prepare_output_folder(folder, settings={**settings, "redshift": 0.05})
    (folder / "cube_predicted.fits").touch()
    with pytest.raises(FileExistsError, match="--resume"):
        prepare_output_folder(folder, settings=settings)
    prepare_output_folder(folder, resume=True, settings=settings)
    with pytest.raises(ValueError, match=r"redshift \(was 0.03, is 0.04\)"):
        prepare_output_folder(folder, resume=True, settings={**settings, "redshift": 0.04})
    prepare_output_folder(folder, overwrite=True, settings={**settings, "redshift": 0.04})
    prepare_output_folder(folder, resume=True, settings={**settings, "redshift": 0.04})
    with pytest.raises(ValueError, match="choose one"):
        prepare_output_folder(folder, resume=True, overwrite=True)


def test_output_folder_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        prepare_output_folder(tmp_path / "file")
    with pytest.raises(ValueError, match="manifest.json"):
        prepare_output_folder(tmp_path, resume=True)
    if os.getuid() != 0:  # root may write anywhere
        folder = tmp_path / "read-only"
        folder.mkdir(mode=0o500)
        with pytest.raises(PermissionError, match="read-only.*permission"):
            prepare_output_folder(folder)

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(OSError, match="new: the file system is read-only"):
        prepare_output_folder(tmp_path / "new")


def test_settings_hash_takes_numpy_and_paths(tmp_path):
    assert settings_hash({"a": np.float64(1), "b": np.arange(2)}) == settings_hash({"b": [0, 1], "a": 1.0})
    assert settings_hash({"a": tmp_path}) != settings_hash({"a": tmp_path / "b"})


def test_provenance_round_trip():
    before = Provenance(
        model_id="nano",
        weights_sha256="a" * 64,
        training_data="simulated galaxies " * 8,
        image_sha256="b" * 64,
        redshift=np.float64(0.03),
        redshift_sigma=float("nan"),
        redshift_source="user",
        seed=np.int64(7),
        ebv=0.05,
        extra={"BEAM": 1.2, "NOTE": "α\nβ"},
    )
    header = fits.Header({"MANGAID": "1-113540", "PLATEIFU": "7815-3702", "VERSDAP": "2.2.3", "SEED": 1})
    before.to_header(header)
    assert not {"MANGAID", "PLATEIFU", "VERSDAP", "ZSIGMA"} & set(header)
    assert header["ORIGIN"] == "fiberifu" and header["DATATYPE"] == "PREDICTED" and header["EBVGAL"] == 0.05
    after = Provenance.from_header(fits.Header.fromstring(header.tostring()))
    assert after.extra == {"BEAM": 1.2, "NOTE": r"\u03b1 \u03b2"}
    expected = before.replace(redshift_sigma=None, extra=after.extra, training_data=before.training_data.strip())
    assert after == expected


def test_provenance_refuses_nonsense():
    with pytest.raises(ValueError, match="SIMULATED"):
        Provenance(datatype="OBSERVED")
    for key in ("MANGAID", "much_too_long_for_fits", "SEED"):
        with pytest.raises(ValueError, match=key):
            Provenance(extra={key: 1})
    with pytest.raises(ValueError, match="DATATYPE"):
        Provenance.from_header(fits.Header())


def test_predictions_are_no_truth(tmp_path):
    path = tmp_path / "a.fits"
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros(3))])
    assert not is_predicted(hdus)
    Provenance(datatype="SIMULATED").to_header(hdus[0].header)
    assert not is_predicted(hdus)
    refuse_predicted(hdus)
    Provenance().to_header(hdus[1].header)
    hdus.writeto(path)
    assert is_predicted(path)
    with pytest.raises(ValueError, match="a.fits.*truth"):
        refuse_predicted(path)
    assert is_predicted({"ORIGIN": "fiberifu"})  # lost its mark: better safe


@pytest.mark.parametrize(
    "name, datatype, better",
    [
        ("cube.fits.gz", "PREDICTED", "cube_predicted.fits.gz"),
        ("cube.fits", "SIMULATED", "cube_sim.fits"),
        ("simple_predicted.fits", "SIMULATED", "simple_sim.fits"),
    ],
)
def test_file_names_tell(name, datatype, better):
    with pytest.raises(ValueError, match=better.replace(".", r"\.")):
        check_file_name(name, datatype)
    assert check_file_name(better, datatype).name == better
    assert check_file_name("Predicted.fits").name == "Predicted.fits"
