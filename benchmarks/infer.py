# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu infer`` killed at random moments: whether rows are lost, doubled or altered.

``python benchmarks/infer.py CATALOG FOLDER --kills 100`` runs the command with two processes, in parts of two
galaxies, and ends it by SIGKILL, the command itself or one of its workers, at moments drawn from the time that a whole
run takes; then it goes on with ``--resume``. Each time a run comes to its end, its tables are compared with those of a
run that was left alone, bit by bit, and the next begins from nothing.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from fiberifu.infer_job import read_inferred

__all__ = ["main"]

RUN = "import sys; from fiberifu import cli, infer_parts; infer_parts.PART = 2; sys.exit(cli.main())"


def start(catalog, folder):
    """The command, as a process of its own."""
    options = "--of 3 --executor process --workers 2 --size 4 --spaxel 1 --draws 8 --resume --quiet".split()
    command = [sys.executable, "-c", RUN, "infer", str(catalog), "-o", str(folder), *options]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def workers_of(process):
    """Process numbers of the workers (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == process.pid:
                found.append(int(path.parent.name))
        except (OSError, ValueError):
            continue
    return found


def main(args=None):
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("catalog", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(args)
    rng, begin = np.random.default_rng(options.seed), time.monotonic()
    whole, folder = options.folder / "whole", options.folder / "killed"
    assert start(options.catalog, whole).wait() == 0
    length, expected = time.monotonic() - begin, read_inferred(whole)
    names = sorted(path.name for path in whole.iterdir())
    kills, of_workers, ends, found = 0, 0, 0, []
    while kills < options.kills or folder.exists():
        run, until = start(options.catalog, folder), time.monotonic() + rng.uniform(0, length)
        while kills < options.kills and run.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        if kills < options.kills and run.poll() is None:
            children = workers_of(run)
            if children and rng.random() < 0.3:  # memory that ran out, say
                os.kill(int(rng.choice(children)), signal.SIGKILL)
                of_workers += 1
            else:
                run.send_signal(signal.SIGKILL)
            kills += 1
        run.wait()
        found.append(len(list(folder.rglob("*_predicted.fits"))) + len(list(folder.glob("chunk*"))))
        if run.returncode == 0:
            table = read_inferred(folder)
            for name in expected.colnames:
                np.testing.assert_array_equal(np.asarray(table[name]), np.asarray(expected[name]), err_msg=name)
            assert sorted(path.name for path in folder.iterdir()) == names
            shutil.rmtree(folder)
            ends += 1
    print(f"{len(expected)} galaxies, {length:.1f} s for a run; {kills} kills, {of_workers} of workers; files at "
          f"each: {min(found)} to {max(found)}; {ends} runs came to their end, all with the same rows; "
          f"{time.monotonic() - begin:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
