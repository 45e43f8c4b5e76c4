"""What shards cost: made from a release, and read for training beside webdataset and HDF5.

    python benchmarks/shards.py RECORDS --build TREE [--workers 2]
    python benchmarks/shards.py RECORDS [--batch 16] [--batches 30] [--rounds 3]

The first makes the records of a release, as ``fiberifu shards TREE -o RECORDS`` does, with time, memory and size, and
what that is for 4.7 million galaxies. It accounts for every target: in the records once, or left out for a reason; none
whose fibre lies in a part of the sky that is held out on the side of training; every file with its sha256.

The second reads them, with galaxies per second and bytes per galaxy of each loader, in one run. The records of a store
are written once more as tar files of ``.npy`` (webdataset) and as one HDF5 file (h5py), the same numbers in the same
half precision without compression. Every loader makes the same batches of float32 tensors from them. Shards and HDF5
are read in the order of the global shuffle, and their batches are compared number by number; webdataset reads its tars
in random order, shuffles within 100 galaxies, as its users do, and its galaxies are counted. Loaders take turns and the
best round counts. Files come from the page cache: it is the work of the processor that is compared, not the disk.
Seconds of the processor are given too, since those of the clock depend on what else runs.

webdataset and h5py are not needed by this package: what is not installed is left out, and said.
"""

import argparse
import collections
import importlib
import itertools
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits

from fiberifu.shards.job import shards_to_folder, summary_lines
from fiberifu.shards.plan import make_plan
from fiberifu.train.shards import ShardLoader, ShardStore, verify
from fiberifu.train.shards.record import SCALED, SPLITS
from fiberifu.train.split import is_held_out

FIBERS = 4  # of a galaxy at most
MANY = 4_700_000  # galaxies of DESI's Data Release 1
IMAGES = ("image", "image_scale", "sigma", "sigma_scale", "present", "psf_fwhm")
SPECTRA = ("flux", "flux_scale", "ivar", "ivar_scale", "offset", "redshift", "sigma_z")


def galaxies_of(store):
    """Records of the training side, one dict of arrays each."""
    for unit, row in store.galaxies():
        arrays = store.arrays(int(unit))
        first, n = int(arrays["first_fiber"][row]), int(arrays["n_fibers"][row])
        yield {k: arrays[k][row] for k in IMAGES} | {k: arrays[k][first : first + n] for k in SPECTRA}


def collate(records):
    """Batch of galaxies, as `ShardLoader` makes it: stacked, in float32, with the scales."""
    stacked = {key: torch.from_numpy(np.stack([r[key] for r in records])) for key in IMAGES}
    stacked |= {key: torch.from_numpy(np.concatenate([r[key] for r in records])) for key in SPECTRA}
    for key, axes in SCALED.items():
        stacked[key] = stacked[key].float() * stacked[f"{key}_scale"][(..., *[None] * axes)]
    return stacked | {"counts": [len(r["redshift"]) for r in records]}


# ---------------------------------------------------------------- loaders: (write -> path), (path -> batches)
def write_tars(store, folder, webdataset):
    pattern = str(folder / "records-%04d.tar")
    with webdataset.ShardWriter(pattern, maxcount=128, verbose=0) as writer:
        for i, record in enumerate(galaxies_of(store)):
            writer.write({"__key__": f"{i:09d}"} | {f"{k}.npy": np.asarray(v) for k, v in record.items()})
    return sorted(folder.glob("*.tar"))


def read_tars(paths, n, webdataset):
    names = [str(path) for path in paths]
    data = webdataset.WebDataset(names, shardshuffle=len(names), seed=1).shuffle(100).decode().repeat()
    source = iter(data)
    while True:
        yield collate([{k.removesuffix(".npy"): v for k, v in next(source).items() if k.endswith(".npy")}
                       for _ in range(n)])  # fmt: skip


def write_hdf5(store, folder, h5py):
    units = store.galaxies()
    count = np.array([store.arrays(int(unit))["n_fibers"][row] for unit, row in units])
    first = np.cumsum(count) - count
    with h5py.File(folder / "records.h5", "w") as file:
        file["first_fiber"], file["n_fibers"] = first, count
        for i, record in enumerate(galaxies_of(store)):
            if i == 0:
                for key in (*IMAGES, *SPECTRA):
                    value = np.asarray(record[key])
                    shape = (len(units), *value.shape) if key in IMAGES else (int(count.sum()), *value.shape[1:])
                    file.create_dataset(key, shape, value.dtype)
            for key in IMAGES:
                file[key][i] = record[key]
            for key in SPECTRA:
                file[key][first[i] : first[i] + count[i]] = record[key]
    return [folder / "records.h5"]


def read_hdf5(paths, n, h5py, order):
    with h5py.File(paths[0], "r") as file:
        first, count = file["first_fiber"][:], file["n_fibers"][:]
        for number in itertools.count():
            records = []
            for epoch, i in zip(*order.visits(number * n, n), strict=True):
                rows = [first[i] + (epoch + k) % count[i] for k in range(min(count[i], FIBERS))]
                spectra = {k: np.stack([file[k][row] for row in rows]) for k in SPECTRA}
                records.append({k: file[k][i] for k in IMAGES} | spectra)
            yield collate(records)


def read_shards(store, n, threads):
    loader = ShardLoader(store, n, 1, threads=threads, fibers=FIBERS)
    return (batch for _, batch in loader.batches())


# ---------------------------------------------------------------- what is made
def seconds_and_memory():
    """Of the processor so far, and bytes that the largest process has had; of this process and those it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used), 1024 * max(u.ru_maxrss for u in used)


def build(tree, records, workers):
    """Make records, and say what it takes."""
    (before, _), wall = seconds_and_memory(), time.perf_counter()
    plan = make_plan(tree)
    (after, _), wall = seconds_and_memory(), time.perf_counter() - wall
    print(f"plan: {len(plan.fibers)} good fibres in {len(plan.files)} pairs of files, {after - before:.1f} s of a "
          f"processor, {wall:.1f} s of the clock")  # fmt: skip
    (before, _), wall = seconds_and_memory(), time.perf_counter()
    index = shards_to_folder(tree, records, workers=workers)
    (after, memory), wall = seconds_and_memory(), time.perf_counter() - wall
    cpu, n, size = after - before, index["galaxies"], index["size"]
    print(*summary_lines(index), sep="\n")
    print(f"{workers} processes, the plan included: {cpu:.0f} s of a processor, {wall:.0f} s of the clock, at most "
          f"{memory / 1e9:.2f} GB in one; {cpu / n:.3f} s and {size / n / 1e3:.1f} kB per galaxy")  # fmt: skip
    print(f"{MANY / 1e6:.1f} million galaxies like these: {MANY * cpu / n / 3600:.0f} processor hours, "
          f"{MANY * size / n / 1e12:.2f} TB")  # fmt: skip
    begin = time.perf_counter()
    shards_to_folder(tree, records, workers=workers, resume=True)
    print(f"resumed with nothing to do, which looks at all files once: {time.perf_counter() - begin:.1f} s")


def account(tree, records):
    """Every target of the redrock files is in the records once, or left out for a reason; or an error."""
    targets = [fits.getdata(path, "REDSHIFTS")["TARGETID"] for path in Path(tree).rglob("redrock-*.fits*")]
    targets, store = np.concatenate(targets), ShardStore(records)
    arrays = [store.arrays(unit) for unit in range(len(store))]
    ids = np.concatenate([a["targetid"] for a in arrays])
    reasons = collections.Counter(store.index["left_out"])
    reasons.update(store.index["meta"]["left_out_by_plan"])
    lost, twice = len(targets) - len(ids) - reasons.total(), len(ids) - len(np.unique(ids))
    seen = 0  # fibres in cells of the sky that are held out, on the side of training
    for a in arrays:
        owner = np.repeat(np.arange(len(a["n_fibers"])), a["n_fibers"])
        east, north = a["offset"].astype(float).T / 3600
        ra, dec = a["ra"][owner] + east / np.cos(np.radians(a["dec"][owner])), a["dec"][owner] + north
        train = a["split"][owner] == SPLITS.index("train")
        seen += int(np.sum(is_held_out(ra[train], dec[train], margin=0)))
    bad = verify(records)
    print(f"{len(targets)} targets = {len(ids)} in records + {reasons.total()} left out, and {lost} of which nothing "
          f"is known; {twice} twice; {seen} of the sky that is held out are trained on; {len(bad)} files have another "
          "sha256")  # fmt: skip
    if lost or twice or seen or bad or not np.isin(ids, targets).all():
        raise SystemExit("the accounts do not balance")


# ---------------------------------------------------------------- what is measured
def same(batch, other):
    names = {"offset": "fiber_offset", "redshift": "fiber_redshift"}
    keys = ("image", "sigma", "present", "psf_fwhm", "flux", "ivar", "offset", "redshift", "sigma_z")
    return all(torch.equal(batch[names.get(k, k)].float(), other[k].float()) for k in keys)


def timed(batches, n, count):
    """Galaxies per second of the clock and of the processor, after two batches."""
    for _ in range(2):
        next(batches)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(batches)
    rates = n * count / (time.perf_counter() - wall), n * count / (time.process_time() - cpu)
    batches.close()
    return rates


def imported(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed, and left out: pip install {name}")
        return None


def main():
    """Build, or read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", help="folder that fiberifu shards has made, or --build makes")
    parser.add_argument("--batch", type=int, default=16, help="galaxies")
    parser.add_argument("--batches", type=int, default=30, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--build", metavar="TREE", help="make the records first; nothing is read")
    parser.add_argument("--workers", type=int, default=2, help="of --build")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.build:
        build(options.build, options.records, options.workers)
        account(options.build, options.records)
        return
    store, n = ShardStore(options.records), options.batch
    order = ShardLoader(store, n, 1, threads=0).order
    print(f"{order.n} galaxies of the training side, {store.index['fibers']} fibres in all; batches of {n}")
    loaders = {f"shards, {t} threads": lambda t=t: read_shards(store, n, t) for t in (0, 2)}
    sizes = dict.fromkeys(loaders, store.index["size"] / store.index["galaxies"])
    with tempfile.TemporaryDirectory() as folder:
        if h5py := imported("h5py"):
            paths = write_hdf5(store, Path(folder), h5py)
            loaders["HDF5 (h5py)"] = lambda paths=paths: read_hdf5(paths, n, h5py, order)
            sizes["HDF5 (h5py)"] = sum(p.stat().st_size for p in paths) / order.n
            pairs = zip(read_shards(store, n, 2), loaders["HDF5 (h5py)"](), strict=False)
            if not all(same(*pair) for pair in itertools.islice(pairs, 8)):
                raise SystemExit("shards and HDF5 give other batches: the comparison would not be fair")
        if webdataset := imported("webdataset"):
            tars = write_tars(store, Path(folder), webdataset)
            loaders["webdataset (tar of npy)"] = lambda: read_tars(tars, n, webdataset)
            sizes["webdataset (tar of npy)"] = sum(p.stat().st_size for p in tars) / order.n
            epoch = itertools.islice(read_tars(tars, 1, webdataset), order.n)
            if sorted(float(b["psf_fwhm"]) for b in epoch) != sorted(float(r["psf_fwhm"]) for r in galaxies_of(store)):
                raise SystemExit("webdataset gives other galaxies: the comparison would not be fair")
        best = dict.fromkeys(loaders, (0.0, 0.0))
        for _ in range(options.rounds):
            for name, batches in loaders.items():
                best[name] = tuple(np.maximum(best[name], timed(batches(), n, options.batches)))
    print(f"{'loader':26}{'galaxies/s':>12}{'per CPU s':>12}{'ratio of CPU':>14}{'kB/galaxy':>12}")
    first = next(iter(best.values()))[1]
    for name, (wall, cpu) in best.items():
        print(f"{name:26}{wall:12.0f}{cpu:12.0f}{first / cpu:14.2f}{sizes[name] / 1e3:12.1f}")


if __name__ == "__main__":
    main()
