# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu infer`` and ``fiberifu shards`` killed at random moments: whether anything is lost, doubled or altered.

    python benchmarks/kills.py infer FOLDER --kills 100
    python benchmarks/kills.py shards FOLDER --kills 100

simulates a small release of ``--galaxies``, some of them spoilt, runs the command once undisturbed, and then ends it
by SIGKILL, the command itself or one of its two workers, at moments drawn from the time that the undisturbed run took;
each time it goes on with ``--resume``. Whenever a run comes to its end, all files that it has made are compared with
those of the undisturbed one, byte by byte. Then the next begins from nothing.

The command is a process forked from this one, which has imported everything and loaded the model: so that kills fall
on its work, not on what goes before it. The workers that it starts are forked likewise.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from astropy.table import Table

from fiberifu import cli, infer_executors, infer_parts
from fiberifu.infer_job import read_inferred
from fiberifu.pretrained import resolve_pretrained
from fiberifu.shards import job
from fiberifu.shards.unit import passbands
from fiberifu.simulate import analytic_template_pack
from fiberifu.simulate_job import simulate_to_folder
from fiberifu.train.shards import Layout, store

__all__ = ["main"]

FORK = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
OPTIONS = {
    "infer": "--of 3 --executor process --workers 2 --size 4 --spaxel 1 --draws 8 --maps --quiet".split(),
    "shards": "--per-unit 2 --workers 2 --quiet".split(),
}


# ---------------------------------------------------------------- what is worked on
def release(folder, n):
    """A simulated release of ``n`` galaxies with bricks, and a catalogue of them, three of its rows spoilt."""
    if not (folder / "galaxies.ecsv").is_file():
        simulate_to_folder("desi", folder, n=n, seed=3, bricks=True, pack=analytic_template_pack(), resume=True)
        truth = Table.read(folder / "truth_sim.fits", "FIBERS")
        rows = truth[np.unique(truth["galaxy"], return_index=True)[1]]
        files = [f"images/cutout_sim-3-{i:06d}.fits" for i in rows["galaxy"]]
        columns = {"RA": rows["fiber_ra"], "DEC": rows["fiber_dec"], "Z": np.array(rows["z"]), "IMAGE": files}
        rows = Table({"NAME": [f"sim {i}" for i in rows["galaxy"]]} | columns)
        rows["Z"][1] = -1.0  # impossible
        rows["IMAGE"][2] = "images/absent.fits"
        short = folder / rows["IMAGE"][3]
        short.write_bytes(short.read_bytes()[:30_000])
        rows.write(folder / "galaxies.ecsv")
    return folder


def arguments(command, tree, folder):
    """Of the command line."""
    place = tree / "galaxies.ecsv" if command == "infer" else tree
    return [command, str(place), "-o", str(folder), *OPTIONS[command], "--resume"]


def contents(command, folder):
    """Files that a finished run has made, by name, but for temporary ones that a killed one may leave."""
    if command == "infer":
        read_inferred(folder)  # every row once, or an error
    else:
        assert store.verify(folder) == []
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if command == "infer" or p.name[0] != "."}


# ---------------------------------------------------------------- processes
def load(command):
    """What workers would load otherwise, each by itself."""
    if command == "infer":
        infer_parts._load(str(resolve_pretrained().absolute()))
    else:
        passbands(Layout(), ("",) * 4)


def start(arguments):
    """Process id of the command, in a fork of this process."""
    child = os.fork()
    if child == 0:
        infer_executors.multiprocessing = job.multiprocessing = FORK
        infer_parts.PART = 2
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # broken pools of workers
        try:
            status = cli.main(arguments)
        finally:
            os._exit(locals().get("status", 3))
    return child


def status_of(child, *, wait):
    """Exit status of a child, negative for the signal that ended it; None while it runs."""
    done, status = os.waitpid(child, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def workers_of(parent):
    """Process ids of the workers (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
        except (OSError, ValueError):
            continue
    return found


def main(args=None):
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=tuple(OPTIONS))
    parser.add_argument("folder", type=Path, help="for the release and the runs")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--galaxies", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    options = parser.parse_args(args)
    rng, command, begin = np.random.default_rng(options.seed), options.command, time.monotonic()
    options.folder.mkdir(parents=True, exist_ok=True)
    simulation = os.fork()  # apart: its threads would not survive the forks to come
    if simulation == 0:
        release(options.folder / "release", options.galaxies)
        os._exit(0)
    assert status_of(simulation, wait=True) == 0, "the simulation has failed"
    tree, whole, folder = (options.folder / name for name in ("release", f"{command}_whole", f"{command}_killed"))
    for path in (whole, folder):
        shutil.rmtree(path, ignore_errors=True)
    load(command)
    since = time.monotonic()
    assert status_of(start(arguments(command, tree, whole)), wait=True) == 0, "the undisturbed run has failed"
    length, expected = time.monotonic() - since, contents(command, whole)
    kills, of_workers, ends, there = 0, 0, 0, []
    while kills < options.kills or folder.exists():
        run, until = start(arguments(command, tree, folder)), time.monotonic() + rng.uniform(0, length)
        last = kills >= options.kills  # left alone, to the end
        while (status := status_of(run, wait=last)) is None and time.monotonic() < until:
            time.sleep(0.005)
        if status is None:
            children = workers_of(run)
            if children and rng.random() < 0.3:  # memory that ran out, say
                os.kill(int(rng.choice(children)), signal.SIGKILL)
                of_workers += 1
            else:
                os.kill(run, signal.SIGKILL)
            kills += 1
            status = status_of(run, wait=True)
        assert status in (0, 2, -signal.SIGKILL), f"ended with {status}"  # 2: an error in words
        there.append(sum(path.is_file() for path in folder.rglob("*")))
        if status == 0:
            found = contents(command, folder)
            different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
            assert not different, f"after {kills} kills these are not as undisturbed: {different[:9]}"
            shutil.rmtree(folder)
            ends += 1
            print(f"{kills} kills, {ends} runs to the end", flush=True)
    print(f"{command} of {options.galaxies} galaxies, {length:.1f} s undisturbed: {kills} kills, {of_workers} of them "
          f"of a worker; {min(there)} to {max(there)} files there after each; {ends} runs came to their end, all as "
          f"undisturbed; {time.monotonic() - begin:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
