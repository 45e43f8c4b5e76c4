# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Where the engine's arrays live: NumPy, or torch on a graphics card, behind the functions that both have."""

import numpy as np

__all__ = ["NUMPY", "get_backend"]


class _Numpy:
    """NumPy, float64."""

    asarray = staticmethod(np.asarray)
    to_numpy = staticmethod(np.asarray)

    def __getattr__(self, name):
        return getattr(np, name)


class _Torch:
    """Torch, float64, on a device.  What is made anew is made there; all else is torch's own."""

    def __init__(self, device):
        import torch

        self.torch, self.device = torch, torch.device(device)

    def __getattr__(self, name):
        return getattr(self.torch, name)

    def asarray(self, x):
        if isinstance(x, self.torch.Tensor):
            return x
        x = np.ascontiguousarray(x)
        return self.torch.from_numpy(x.astype(float) if x.dtype.kind == "f" else x.copy()).to(self.device)

    @staticmethod
    def to_numpy(x):
        return x.cpu().numpy() if hasattr(x, "cpu") else np.asarray(x)

    def flatnonzero(self, x):
        return self.torch.nonzero(x, as_tuple=True)[0]

    def _made(self, function, *arguments, dtype=None):
        return function(*arguments, dtype=dtype or self.torch.float64, device=self.device)

    def zeros(self, shape, dtype=None):
        return self._made(self.torch.zeros, shape, dtype={bool: self.torch.bool, int: self.torch.int64}.get(dtype))

    def full(self, shape, value):
        return self._made(self.torch.full, shape if isinstance(shape, tuple) else (shape,), value)

    def eye(self, n):
        return self._made(self.torch.eye, n)

    def arange(self, n):
        return self._made(self.torch.arange, n, dtype=self.torch.int64)


NUMPY = _Numpy()


def get_backend(name):
    """The arrays of a backend.

    Parameters
    ----------
    name : {'numpy', 'torch'} or str
        ``"torch"`` is the graphics card if there is one, else the processor; ``"torch:cuda:1"`` names the device.

    Raises
    ------
    ValueError
        For another name, or a device that there is not.
    """
    if name == "numpy":
        return NUMPY
    kind, _, device = str(name).partition(":")
    if kind != "torch":
        raise ValueError(f"backend is {name!r}; use 'numpy', 'torch' or 'torch:DEVICE'")
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"backend is {name!r}: {str(error).splitlines()[0]}") from error
    return _Torch(device)
