"""Readers against damaged files: bits flipped, cut off, gzipped, HDUs and columns gone, NaN, no weight, wrong units ...

    python benchmarks/fuzz_readers.py [READER ...] [--n 500] [--seed 0] [--real FOLDER] [--verbose]

Of every file a reader must either give something sound (no number that is not finite, no weight of zero where the mask
says good ...), or a ValueError or OSError that names the file. The files are the small ones of the tests, or with
``--real`` those of the folder of real data (the data are only read). One in twelve is given another extension. A file
that failed is made again by its number: ``--seed S --only I``. The exit status is 1 if any failed.
"""

import argparse
import collections
import gzip
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from damage import damaged  # noqa: E402
from reader_files import READERS, outcome  # noqa: E402

EXTENSIONS = (".txt", ".fits.gz", ".fits.fz", ".csv", ".png", "")


def originals(reader, real):
    """Folder of whole files, and their bytes by path; real ones are unpacked."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [real / name for name in reader.real] if real else reader.make(Path(folder))
        whole = {path.name: path.read_bytes() for path in paths}
    return {name: gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data for name, data in whole.items()}


def damage_one(whole, folder, rng):
    """Write the files into a folder, one of them damaged; their paths, and what was done."""
    folder.mkdir()
    names = list(whole)
    which = rng.integers(len(names))
    paths = []
    for i, name in enumerate(names):
        data, path = whole[name], folder / name.removesuffix(".gz")
        if i == which:
            data, kind = damaged(data, rng)
            if rng.integers(12) == 0 and len(names) == 1:
                path = folder / (path.name.split(".")[0] + EXTENSIONS[rng.integers(len(EXTENSIONS))])
                kind += ", extension"
        path.write_bytes(data)
        paths.append(path)
    return paths, kind


def fuzz(name, reader, options):
    """Print the outcomes of one reader; the number of failures."""
    counts, wrong, began = collections.Counter(), [], time.process_time()
    whole = originals(reader, options.real)
    numbers = range(options.n) if options.only is None else [options.only]
    with tempfile.TemporaryDirectory() as folder:
        for i in numbers:
            paths, kind = damage_one(whole, Path(folder) / str(i), np.random.default_rng([options.seed, i]))
            try:
                result = outcome(reader, paths)
            except Exception as error:
                result = "failed"
                line = traceback.extract_tb(error.__traceback__)[-1]
                wrong.append(
                    f"  {i} ({kind}): {type(error).__name__}: {error} [{Path(line.filename).name}:{line.lineno}]"
                )
            counts[kind.split(", extension")[0], result] += 1
            for path in paths:
                path.unlink()
    total = collections.Counter()
    for (_, result), count in counts.items():
        total[result] += count
    seconds = time.process_time() - began
    print(f"{name:12} {len(numbers):5} files: {total['error']:4} named errors, {total['read']:4} sound results, "
          f"{total['failed']:3} failed  ({seconds:.0f} CPU s)", *wrong, sep="\n", flush=True)  # fmt: skip
    if options.verbose:
        for (kind, result), count in sorted(counts.items()):
            print(f"    {kind:18} {result:6} {count}")
    return len(wrong)


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"all, or of {', '.join(READERS)}")
    parser.add_argument("--n", type=int, default=500, help="files of each reader (500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="I", help="file number I alone")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="damage the real files of this folder instead")
    parser.add_argument("--verbose", action="store_true", help="outcomes by kind of damage")
    options = parser.parse_args(args)
    if unknown := set(options.readers) - set(READERS):
        parser.error(f"no reader {', '.join(sorted(unknown))}; there are {', '.join(READERS)}")
    chosen = {name: READERS[name] for name in options.readers or READERS}
    if options.real:
        chosen = {name: reader for name, reader in chosen.items() if reader.real}
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", RuntimeWarning)  # of numbers: what users would see, and wonder
    return int(sum([fuzz(name, reader, options) for name, reader in chosen.items()]) > 0)


if __name__ == "__main__":
    raise SystemExit(main())
