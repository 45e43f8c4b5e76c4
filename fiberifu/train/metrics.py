"""Losses by step: rows of a CSV file, and TensorBoard where it is asked for."""

import contextlib
import csv

__all__ = ["metrics"]


@contextlib.contextmanager
def metrics(path, step, names, tensorboard=None):
    """A function that writes the values of a step, by name.

    Parameters
    ----------
    path : `pathlib.Path`
        CSV file. It is continued; rows of steps that will be done again are dropped.
    step : int
        The next one.
    names : sequence of str
    tensorboard : path-like, optional
        Folder of events.

    Raises
    ------
    ImportError
        For a folder of events where there is no tensorboard.
    """
    rows = []
    if path.is_file():
        with path.open(newline="") as file:
            rows = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) < step]
    events = None if tensorboard is None else _events(tensorboard, step)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("step", *names), *rows])
        file.flush()

        def write(now, values):
            writer.writerow((now, *(values[name] for name in names)))
            file.flush()
            for name in names if events else ():
                events.add_scalar(name, float(values[name]), now)

        try:
            yield write
        finally:
            if events:
                events.close()


def _events(folder, step):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("tensorboard: not installed; `pip install tensorboard`, or leave it to log.csv") from error
    return SummaryWriter(str(folder), purge_step=step)
