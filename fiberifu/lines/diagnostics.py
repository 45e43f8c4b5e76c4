# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What ionises the gas, and the dust that reddens it: diagnostics of `~fiberifu.lines.LineMaps`.

Classes: fluxes and their joint covariance -> log ratios with errors -> place in the diagram -> class; and many draws
of the fluxes, each put in its place -> probabilities.  Dust: Balmer decrement -> E(B-V) -> corrected fluxes and their
covariance.
"""

import copy
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, NDData, StdDevUncertainty
from numpy.polynomial.polynomial import polyval
from scipy.special import ndtri
from scipy.stats import qmc

from fiberifu.lines.maps import FLUX_UNIT, NO_DATA, DAPMask
from fiberifu.lines.table import line_table, resolve_line

__all__ = [
    "BPT_DIAGRAMS",
    "CASE_B",
    "KAUFFMANN_2003",
    "KEWLEY_2001",
    "WHAN_NAMES",
    "BPTDiagram",
    "Classification",
    "Hyperbola",
    "bpt",
    "deredden",
    "gas_reddening",
    "reduced_chi2",
    "relative_extinction",
    "whan",
]

N_DRAWS = 1024  # of the fluxes of each position: probabilities to 0.004 (rms; 0.02 at worst)
CHUNK = 256  # positions drawn at a time: some tens of MB
DONOTUSE = np.int32(DAPMask.DONOTUSE)


# ---------------------------------------------------------------- diagrams
@dataclass(frozen=True)
class Hyperbola:
    """Demarcation ``y = height + 0.61 / (x - asymptote)`` (with its own ``scale``), to the left of its asymptote.

    Right of the asymptote the formula has a second branch that means nothing: there the curve is at minus infinity, so
    that no point lies below it.
    """

    scale: float
    asymptote: float
    height: float

    def __call__(self, x):
        """log [O III]/H-beta on the curve; -inf from the asymptote on."""
        x = np.asarray(x, dtype=np.float64)
        left = x < self.asymptote
        return np.where(left, self.scale / np.where(left, x - self.asymptote, -1.0) + self.height, -np.inf)


#: Below it: star-forming in [N II] (Kauffmann et al. 2003, MNRAS 346, 1055, eq. 1).
KAUFFMANN_2003 = Hyperbola(0.61, 0.05, 1.30)
#: Maximum starburst in [N II], [S II] and [O I] (Kewley et al. 2001, ApJ 556, 121, eqs. 5, 6 and 7).
KEWLEY_2001 = {
    "N2": Hyperbola(0.61, 0.47, 1.19),
    "S2": Hyperbola(0.72, 0.32, 1.30),
    "O1": Hyperbola(0.73, -0.59, 1.33),
}


@dataclass(frozen=True)
class BPTDiagram:
    """A diagram of log [O III]/H-beta against another ratio.

    Attributes
    ----------
    numerator, label : str
        Line, or sum of lines, over H-alpha on the x axis; and as printed.
    names : tuple of str
        Classes: below the first of the ``curves``, the second ..., then Seyfert and LINER.
    curves : tuple of `Hyperbola`
    seyfert : (float, float)
        Slope and intercept of the line above which an AGN is a Seyfert.
    """

    numerator: str
    label: str
    names: tuple
    curves: tuple
    seyfert: tuple

    def classify(self, x, y):
        """Index of the class of each point; infinite ratios are limits, -1 where one is NaN."""
        slope, intercept = self.seyfert
        below = [y < curve(x) for curve in self.curves]
        n = len(below)
        index = np.select([*below, y > slope * x + intercept], range(n + 1), n + 1).astype(np.int8)
        return np.where(np.isnan(x) | np.isnan(y), np.int8(-1), index)


#: The three diagrams.  Seyferts and LINERs part as in Schawinski et al. 2007 (MNRAS 382, 1415) in [N II], as in
#: Kewley et al. 2006 (MNRAS 372, 961) in [S II] and [O I].
BPT_DIAGRAMS = {
    "N2": BPTDiagram(
        "N2_6583",
        r"[N II] $\lambda$6583 / H$\alpha$",
        ("star-forming", "composite", "Seyfert", "LINER"),
        (KAUFFMANN_2003, KEWLEY_2001["N2"]),
        (1.05, 0.45),
    ),
    "S2": BPTDiagram(
        "S2_6716+S2_6731",
        r"[S II] $\lambda\lambda$6716, 6731 / H$\alpha$",
        ("star-forming", "Seyfert", "LINER"),
        (KEWLEY_2001["S2"],),
        (1.89, 0.76),
    ),
    "O1": BPTDiagram(
        "O1_6300",
        r"[O I] $\lambda$6300 / H$\alpha$",
        ("star-forming", "Seyfert", "LINER"),
        (KEWLEY_2001["O1"],),
        (1.18, 1.30),
    ),
}

#: Classes of the WHAN diagram, and its limits (Cid Fernandes et al. 2011, MNRAS 413, 1687, section 6): in
#: log [N II]/H-alpha, and in EW(H-alpha) of strong AGN, of ionisation by young stars or AGN, and of any line at all.
WHAN_NAMES = ("pure star-forming", "strong AGN", "weak AGN", "retired", "passive")
WHAN_LOG_N2 = -0.4
WHAN_STRONG, WHAN_YOUNG, WHAN_PASSIVE = 6 * u.AA, 3 * u.AA, 0.5 * u.AA


def _whan_classes(log_n2, ew_ha, ew_n2):
    """Index in `WHAN_NAMES`; the ratio counts only above 3 Angstrom.  Equivalent widths in Angstrom."""
    strong, young, passive = (limit.to_value(u.AA) for limit in (WHAN_STRONG, WHAN_YOUNG, WHAN_PASSIVE))
    index = np.select(
        [(ew_ha < passive) & (ew_n2 < passive), ew_ha < young, log_n2 < WHAN_LOG_N2, ew_ha > strong], [4, 3, 0, 1], 2
    ).astype(np.int8)
    unknown = np.isnan(ew_ha) | np.isnan(ew_n2) | (np.isnan(log_n2) & (ew_ha >= young))
    return np.where(unknown, np.int8(-1), index)


# ---------------------------------------------------------------- classes
@dataclass(frozen=True, eq=False, repr=False)
class Classification:
    """Positions in a diagnostic diagram, with their classes.

    Attributes
    ----------
    kind : {'N2', 'S2', 'O1', 'WHAN'}
    names : tuple of str
        The n classes.
    x, y : `~astropy.nddata.CCDData`, shape spatial
        Coordinates in the diagram with first-order errors: log10 of ratios; of WHAN y is EW(H-alpha).
    classes : `~astropy.nddata.CCDData` of int, shape spatial
        Index in ``names``, -1 and masked where there is none; the names are in its ``meta``, the reason in its
        ``flags``: the bits of the lines, MATHERROR for a ratio that is not positive, UNRELIABLE below the S/N.
    probabilities : ndarray, shape (n,) + spatial
        Of each class; NaN where a line is masked, else they sum to 1, also where ``classes`` is -1.
    bins : ndarray of int, shape spatial, optional
        Where spaxels repeat the measurement of a bin: its number, -1 for none.
    """

    kind: str
    names: tuple
    x: CCDData
    y: CCDData
    classes: CCDData
    probabilities: np.ndarray
    bins: np.ndarray | None = None

    def probability(self, name):
        """Map of the probability of one class, `~astropy.nddata.CCDData`."""
        if name not in self.names:
            raise ValueError(f"class {name!r} is not in this diagram; it has {', '.join(self.names)}")
        value = self.probabilities[self.names.index(name)]
        bits = np.where(np.isfinite(value), 0, self.classes.flags | np.int32(NO_DATA))
        unit, wcs, meta = u.dimensionless_unscaled, self.classes.wcs, dict(self.x.meta)
        return CCDData(value, unit=unit, mask=bits & DONOTUSE != 0, flags=bits, wcs=wcs, meta=meta)

    @property
    def counts(self):
        """Number of positions, or of bins, of each class, and of those ``'unclassified'``; dict of str to int."""
        classes = self.classes.data[self.once]
        counts = {name: int((classes == i).sum()) for i, name in enumerate(self.names)}
        return counts | {"unclassified": int((classes < 0).sum())}

    @property
    def once(self):
        """Where to look to see every measurement once: one spaxel of each bin, all of maps without bins."""
        if self.bins is None:
            return np.ones(self.classes.shape, bool)
        first = np.unique(self.bins, return_index=True)[1]
        return np.isin(np.arange(self.bins.size), first).reshape(self.bins.shape) & (self.bins >= 0)

    def __repr__(self):
        return f"<Classification {self.kind}: {', '.join(f'{n} {name}' for name, n in self.counts.items())}>"


def bpt(maps, kind="N2", *, snr=3):
    """Classes by the ratios of strong lines (Baldwin, Phillips & Terlevich 1981, PASP 93, 5).

    Parameters
    ----------
    maps : `~fiberifu.lines.LineMaps`
    kind : {'N2', 'S2', 'O1'}
        Line that is compared with H-alpha; [O III] 5007 over H-beta is the other ratio.
    snr : float
        A position gets a class if the flux of each of the four (sums of) lines is at least so many sigma.

    Returns
    -------
    `Classification`
        [N II]: star-forming, composite, Seyfert, LINER; [S II] and [O I]: star-forming, Seyfert, LINER.

    Raises
    ------
    ValueError
        For an unknown ``kind``, and for maps that lack one of the lines.

    Notes
    -----
    In [N II] the curve of Kauffmann et al. lies above Kewley's left of x = -1.28: what is below it counts as
    star-forming.  The probabilities are shares of 1024 draws of the fluxes from their joint normal distribution, the
    same draws in every position and every run.  A flux drawn at or below zero makes its ratio a limit: zero in the
    numerator puts x or y at -infinity, in the denominator at +infinity.  Where both are, the ratio is not
    known, and the draw counts in equal parts for all classes; so probabilities become even as lines vanish.
    """
    if kind not in BPT_DIAGRAMS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(map(repr, BPT_DIAGRAMS))}")
    diagram = BPT_DIAGRAMS[kind]
    lines = ("O3_5007", "Hb", diagram.numerator, "Ha")
    flux, covariance, bits = _joint_fluxes(maps, lines)
    masked = bits & DONOTUSE != 0
    x, y = _log(maps.ratio(diagram.numerator, "Ha")), _log(maps.ratio("O3_5007", "Hb"))
    weak = ~masked & ~(flux >= snr * _sigma(covariance)).all(-1)
    classes = np.where(masked | weak, -1, diagram.classify(x.data, y.data))
    bits = bits | x.flags | y.flags

    def place(draws):
        return diagram.classify(_log_ratio(draws[..., 2], draws[..., 3]), _log_ratio(draws[..., 0], draws[..., 1]))

    chances = _probabilities(flux, covariance, ~masked, place, len(diagram.names))
    return _classification(maps, kind, diagram.names, x, y, classes, bits, weak, chances)


def whan(maps, *, snr=3):
    """Classes by EW(H-alpha) and [N II]/H-alpha (Cid Fernandes et al. 2011, MNRAS 413, 1687).

    Parameters
    ----------
    maps : `~fiberifu.lines.LineMaps`
        With equivalent widths (rest frame, positive in emission).
    snr : float
        From EW(H-alpha) = 3 Angstrom on both lines must be at least so many sigma; below, where the width alone
        decides, its error must be less than 3 Angstrom / ``snr``: a line of 3 Angstrom would have been seen.

    Returns
    -------
    `Classification`
        Pure star-forming, strong AGN, weak AGN, retired (EW(H-alpha) < 3 Angstrom) and passive (both lines below
        0.5 Angstrom).

    Raises
    ------
    ValueError
        For maps without one of the lines, or without equivalent widths.

    Notes
    -----
    Probabilities as in `bpt`.  The equivalent width of a draw moves with its flux: their errors are taken as fully
    correlated, as they are where the noise of the line outweighs that of the continuum.
    """
    rows = [maps.lines.index(resolve_line(line, known=maps.lines)) for line in ("Ha", "N2_6583")]
    width, width_sigma = (np.moveaxis(array[rows], 0, -1) for array in maps._data["ew"][:2])
    if not np.isfinite(width).any():
        raise ValueError("maps hold no equivalent widths of Ha and N2_6583; LineMaps(..., ew=..., ew_sigma=...)")
    flux, covariance, bits = _joint_fluxes(maps, ("Ha", "N2_6583"))
    bits = bits | np.bitwise_or.reduce(maps._mask["ew"][rows], axis=0)
    masked = bits & DONOTUSE != 0
    x, y = _log(maps.ratio("N2_6583", "Ha")), maps.ew["Ha"]

    young = width[..., 0] >= WHAN_YOUNG.to_value(u.AA)
    seen = (flux >= snr * _sigma(covariance)).all(-1)
    sharp = snr * width_sigma[..., 0] < WHAN_YOUNG.to_value(u.AA)
    weak = ~masked & ~np.where(young, seen, sharp)
    classes = np.where(masked | weak, -1, _whan_classes(x.data, width[..., 0], width[..., 1]))
    bits = bits | np.where(young, x.flags, 0)

    sigma = np.concatenate([_sigma(covariance), width_sigma], axis=-1)
    correlation = np.tile(_correlation(covariance), (2, 2))
    joint = correlation * sigma[..., :, None] * sigma[..., None, :]

    def place(draws):
        return _whan_classes(_log_ratio(draws[..., 1], draws[..., 0]), draws[..., 2], draws[..., 3])

    chances = _probabilities(np.concatenate([flux, width], axis=-1), joint, ~masked, place, len(WHAN_NAMES))
    return _classification(maps, "WHAN", WHAN_NAMES, x, y, classes, bits, weak, chances)


def _classification(maps, kind, names, x, y, classes, bits, weak, probabilities):
    none = classes < 0
    bits = bits | np.where(weak, np.int32(DAPMask.UNRELIABLE), 0) | np.where(none, np.int32(NO_DATA), 0)
    meta = {"diagram": kind, "classes": dict(enumerate(names))} | dict(x.meta)
    unit = u.dimensionless_unscaled
    classes = CCDData(classes.astype(np.int16), unit=unit, mask=none, flags=bits, wcs=maps.wcs, meta=meta)
    return Classification(kind, names, x, y, classes, probabilities, maps.meta.get("bins"))


def _joint_fluxes(maps, lines):
    """Fluxes of m (sums of) lines, shape spatial + (m,), their covariance, and the bits of all in one."""
    weights = np.stack([maps._weights(line) for line in lines])
    used = np.flatnonzero(weights.any(0))
    weights = weights[:, used]
    flux = np.moveaxis(maps._data["flux"][0][used], 0, -1) @ weights.T
    covariance = weights @ maps._line_covariance()[..., used[:, None], used] @ weights.T
    return flux, covariance, np.bitwise_or.reduce(maps._mask["flux"][used], axis=0)


def _sigma(covariance):
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))


def _correlation(covariance):
    sigma = _sigma(covariance)
    scale = np.where(sigma > 0, sigma, 1.0)
    return covariance / (scale[..., :, None] * scale[..., None, :])


def _log(ratio):
    """log10 of a `CCDData`, with its first-order error; NaN and MATHERROR where it is not positive."""
    positive = ratio.data > 0
    value = np.log10(ratio.data, out=np.full(ratio.shape, np.nan), where=positive)
    bits = ratio.flags | np.where(positive, 0, np.int32(DAPMask.MATHERROR | DAPMask.DONOTUSE))
    log = CCDData(value, unit=ratio.unit, mask=bits & DONOTUSE != 0, flags=bits, wcs=ratio.wcs, meta=dict(ratio.meta))
    if ratio.uncertainty is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            log.uncertainty = StdDevUncertainty(ratio.uncertainty.array / (ratio.data * np.log(10)))
    return log


def _log_ratio(numerator, denominator):
    """log10 of a ratio of fluxes of any sign: -inf or inf where one is not positive, NaN where neither is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(np.maximum(numerator, 0)) - np.log10(np.maximum(denominator, 0))


def _normal_draws(dimensions):
    """Quasi-random normal numbers, shape (N_DRAWS, dimensions): a Sobol sequence, in the middle of its cells."""
    uniform = qmc.Sobol(dimensions, scramble=False).random(N_DRAWS)
    return ndtri(uniform + 0.5 / N_DRAWS)


def _probabilities(mean, covariance, good, place, n_classes):
    """Shares of the classes among draws of joint normal variables, shape (n_classes,) + spatial.

    ``place`` gives the classes (int, -1 unknown) of draws of shape (positions, N_DRAWS, variables).
    """
    shape, m = mean.shape[:-1], mean.shape[-1]
    mean, covariance = mean.reshape(-1, m), covariance.reshape(-1, m, m)
    good = good.ravel() & np.isfinite(mean).all(-1) & np.isfinite(covariance).all((-2, -1))
    result = np.full((n_classes, len(mean)), np.nan)
    normal = _normal_draws(m)
    for start in range(0, good.sum(), CHUNK):
        rows = np.flatnonzero(good)[start : start + CHUNK]
        # The symmetric root is unique; negative eigenvalues are rounding.
        values, vectors = np.linalg.eigh(_correlation(covariance[rows]))
        root = (vectors * np.sqrt(np.clip(values, 0, None))[:, None]) @ np.swapaxes(vectors, -2, -1)
        draws = mean[rows, None] + _sigma(covariance[rows])[:, None] * (normal @ root)
        classes = place(draws)
        shares = np.stack([(classes == i).mean(1) for i in range(n_classes)])
        result[:, rows] = shares + (1 - shares.sum(0)) / n_classes
    return result.reshape(n_classes, *shape)


# ---------------------------------------------------------------- dust
#: Balmer lines relative to H-beta: case B, 1e4 K, 100 cm-3 (Osterbrock & Ferland 2006, table 4.4; H-alpha, 2.863
#: there, as commonly rounded).
CASE_B = {"Ha": 2.86, "Hb": 1.0, "Hg": 0.468, "Hd": 0.259}

# Coefficients of powers of (x - 1.82 / micron) in a(x) and b(x), A(x)/A(V) = a + b / R_V, 1.1 <= x < 3.3:
# Cardelli, Clayton & Mathis 1989 (ApJ 345, 245), eq. 3, and O'Donnell 1994 (ApJ 422, 158), table 3.
OPTICAL_LAWS = {
    "cardelli89": (
        (1, 0.17699, -0.50447, -0.02427, 0.72085, 0.01979, -0.77530, 0.32999),
        (0, 1.41338, 2.28305, 1.07233, -5.38434, -0.62251, 5.30260, -2.09002),
    ),
    "odonnell94": (
        (1, 0.104, -0.609, 0.701, 1.137, -1.718, -0.827, 1.647, -0.505),
        (0, 1.952, 2.908, -3.989, -7.985, 11.102, 5.491, -10.805, 3.347),
    ),
}


def relative_extinction(wavelength, law="cardelli89", *, rv=3.1):
    """Extinction A(wavelength) / E(B-V).

    Parameters
    ----------
    wavelength : `~astropy.units.Quantity`
        Rest frame, 3030 Angstrom to 3.3 micron for the built-in laws.
    law : {'cardelli89', 'odonnell94'} or str or callable
        Built in: Cardelli, Clayton & Mathis 1989 (ApJ 345, 245, eqs. 2 and 3) and O'Donnell 1994 (ApJ 422, 158).
        Another name is that of a class in ``dust_extinction.parameter_averages``, such as ``'F19'``, if that
        package is installed.  A model of dust_extinction, or any function of wavelengths that gives
        A(wavelength)/A(V), is taken as it is, with its own ``Rv`` if it has one.
    rv : float
        A(V) / E(B-V).

    Returns
    -------
    ndarray
        Magnitudes per magnitude of E(B-V).

    Raises
    ------
    ValueError
        Law not known, or wavelengths outside its range.
    ImportError
        Law that needs dust_extinction, where that is not installed.
    """
    if callable(law):
        return _rv(law, rv) * np.asarray(law(wavelength), dtype=np.float64)
    if law not in OPTICAL_LAWS:
        return relative_extinction(wavelength, _dust_extinction_model(law, rv), rv=rv)
    x = (1 / wavelength).to_value(1 / u.um)
    if np.any((x < 0.3) | (x >= 3.3)):
        raise ValueError(
            f"wavelength is {wavelength.min():.6g} to {wavelength.max():.6g}; {law} holds from 3030.4 Angstrom to "
            "3.3 micron: give another law"
        )
    a, b = (polyval(x - 1.82, coefficients) for coefficients in OPTICAL_LAWS[law])
    infrared = x < 1.1
    a, b = np.where(infrared, 0.574 * x**1.61, a), np.where(infrared, -0.527 * x**1.61, b)
    return rv * a + b


def _rv(law, rv):
    """R_V of a model, which may be a number or an astropy parameter; else ``rv``."""
    own = getattr(law, "Rv", rv)
    return float(np.ravel(getattr(own, "value", own))[0])


def _dust_extinction_model(name, rv):
    try:
        from dust_extinction import parameter_averages
    except ImportError as error:
        raise ImportError(
            f"law {name!r} needs the package dust_extinction (pip install dust_extinction); built in are "
            f"{', '.join(OPTICAL_LAWS)}"
        ) from error
    if name not in parameter_averages.__all__:
        raise ValueError(
            f"law {name!r} is neither built in ({', '.join(OPTICAL_LAWS)}) nor in dust_extinction.parameter_averages "
            f"({', '.join(parameter_averages.__all__)}); other models: law=the model itself"
        )
    return getattr(parameter_averages, name)(Rv=rv)


def gas_reddening(maps, *, decrement=("Ha", "Hb"), intrinsic=None, law="cardelli89", rv=3.1):
    """E(B-V) of the gas from a Balmer decrement.

    Parameters
    ----------
    maps : `~fiberifu.lines.LineMaps`
    decrement : (str, str)
        Balmer lines, the redder first.
    intrinsic : float, optional
        Their flux ratio without dust; by default as in `CASE_B`.
    law, rv
        See `relative_extinction`.

    Returns
    -------
    `~astropy.nddata.CCDData`
        In mag, as measured: negative where the ratio is below the intrinsic one.  Decrement and intrinsic ratio are
        in its ``meta``.

    Raises
    ------
    ValueError
        Lines missing, not in order, or without an intrinsic ratio.
    """
    redder, bluer = (resolve_line(line, known=maps.lines) for line in decrement)
    intrinsic = _case_b(redder, bluer) if intrinsic is None else float(intrinsic)
    k_red, k_blue = relative_extinction(line_table([redder, bluer])["wavelength"], law, rv=rv)
    if not (intrinsic > 0 and k_blue > k_red):
        raise ValueError(
            f"decrement is {decrement!r} with the intrinsic ratio {intrinsic:g}; the redder line comes first, and the "
            "ratio must be positive"
        )
    log = _log(maps.ratio(redder, bluer))
    scale = 2.5 / (k_blue - k_red)
    ebv = CCDData(
        scale * (log.data - np.log10(intrinsic)),
        unit=u.mag,
        mask=log.mask,
        flags=log.flags,
        wcs=log.wcs,
        meta=dict(log.meta) | {"decrement": (redder, bluer), "intrinsic": intrinsic},
    )
    if log.uncertainty is not None:
        ebv.uncertainty = StdDevUncertainty(scale * log.uncertainty.array)
    return ebv


def _case_b(redder, bluer):
    if not {redder, bluer} <= set(CASE_B):
        raise ValueError(
            f"decrement {redder}/{bluer} has no intrinsic ratio here (only {', '.join(CASE_B)}); give intrinsic="
        )
    return CASE_B[redder] / CASE_B[bluer]


def deredden(maps, ebv=None, *, law="cardelli89", rv=3.1, decrement=("Ha", "Hb"), intrinsic=None, snr=3):
    """Line fluxes corrected for the dust **in the galaxy**: a screen in front of the gas.

    Parameters
    ----------
    maps : `~fiberifu.lines.LineMaps`
        Best corrected for Galactic extinction before (``maps.extinction_corrected``): what is left of it counts as
        the galaxy's own.
    ebv : `~astropy.nddata.NDData`, `~astropy.units.Quantity`, float or array_like, shape spatial, optional
        E(B-V) of the gas in mag, with its error if it is NDData.  By default from the Balmer ``decrement``.
    law, rv
        See `relative_extinction`.
    decrement, intrinsic
        See `gas_reddening`.
    snr : float
        Where a line of the decrement has fewer sigma, the corrected fluxes are UNRELIABLE.

    Returns
    -------
    `~fiberifu.lines.LineMaps`
        A copy with corrected fluxes, errors and covariances; equivalent widths, continuum and kinematics are as
        they were.  ``meta["internal_extinction"]`` records law, R_V, decrement and the E(B-V) used.

    Raises
    ------
    ValueError
        Maps corrected before, ``ebv`` of another shape, unknown ``law``, missing lines.
    ImportError
        Law that needs dust_extinction, where that is not installed.

    Notes
    -----
    Errors are of first order and joint: of all fluxes with each other and with the E(B-V) that comes from two of
    them, so the corrected decrement is exact and the corrected H-alpha less certain than before.  A negative
    E(B-V) is set to 0 and flagged NOCORRECTION; its error stays.  Positions without E(B-V) are masked.
    ``meta`` is not in the files that `~fiberifu.lines.LineMaps.write` writes: write the maps as observed.
    """
    if "internal_extinction" in maps.meta:
        raise ValueError("maps are corrected for internal dust already (meta['internal_extinction'])")
    k = _line_extinction(maps.lines, law, rv)
    value, _, _ = maps._data["flux"]
    if ebv is None:
        reddening = gas_reddening(maps, decrement=decrement, intrinsic=intrinsic, law=law, rv=rv)
        slope, own_sigma = _decrement_slope(maps, decrement, k), 0.0
        faint = ~(np.stack([maps.snr[line].data for line in decrement]) >= snr).all(0)
    else:
        reddening = _given_reddening(maps, ebv)
        slope, own_sigma = np.zeros((len(maps.lines), *maps.shape)), _error(reddening)
        faint = np.zeros(maps.shape, bool)
    known = ~reddening.mask & np.isfinite(reddening.data)
    used = np.where(known, np.maximum(reddening.data, 0), np.nan)
    gain = 10 ** (0.4 * np.multiply.outer(k, used))
    flux = value * gain
    growth = np.log(10) * 0.4 * k.reshape(-1, *[1] * len(maps.shape)) * flux  # d flux / d E(B-V)

    # d flux_i = gain_i d observed_i + growth_i dE, where dE = slope . d observed, or an error of its own.
    matrix = np.einsum("i...,ij->...ij", gain, np.eye(len(k))) + np.einsum("i...,j...->...ij", growth, slope)
    observed = maps._line_covariance()
    absent = ~np.isfinite(observed.diagonal(axis1=-2, axis2=-1))
    matrix, observed = np.nan_to_num(matrix), np.nan_to_num(observed)
    covariance = matrix @ observed @ np.swapaxes(matrix, -2, -1)
    covariance += np.einsum("i...,j...->...ij", growth * own_sigma, growth * own_sigma)
    # The corrected decrement has no error: rounding must not make its variance negative.
    covariance *= 1 + 1e-12 * np.eye(len(k))
    absent |= ~np.isfinite(np.moveaxis(flux, 0, -1))
    covariance[absent[..., :, None] | absent[..., None, :]] = np.nan

    bits = np.where(known, 0, np.int32(NO_DATA | DAPMask.NOCORRECTION))
    bits = bits | np.where(reddening.data < 0, np.int32(DAPMask.NOCORRECTION), 0)
    bits = bits | np.where(faint, np.int32(DAPMask.UNRELIABLE), 0)
    record = {
        "ebv": reddening,
        "law": law if isinstance(law, str) else type(law).__name__,
        "rv": _rv(law, rv),
        "decrement": reddening.meta.get("decrement"),
        "intrinsic": reddening.meta.get("intrinsic"),
        "galactic_corrected": maps.extinction_corrected,
    }
    return _with_fluxes(maps, flux, covariance, matrix, bits, record)


def _line_extinction(lines, law, rv):
    """A / E(B-V) of each line; NaN for lines in no table."""
    known = set(line_table("all")["key"])
    rows = [i for i, line in enumerate(lines) if line in known]
    k = np.full(len(lines), np.nan)
    k[rows] = relative_extinction(line_table([lines[i] for i in rows])["wavelength"], law, rv=rv)
    return k


def _decrement_slope(maps, decrement, k):
    """d E(B-V) / d flux of each line, shape (n,) + spatial: E(B-V) is a log of the ratio of two of them."""
    redder, bluer = (maps.lines.index(resolve_line(line, known=maps.lines)) for line in decrement)
    flux = maps._data["flux"][0]
    slope = np.zeros_like(flux)
    scale = 2.5 / np.log(10) / (k[bluer] - k[redder])
    for i, sign in ((redder, 1), (bluer, -1)):
        np.divide(sign * scale, flux[i], out=slope[i], where=flux[i] > 0)
    return slope


def _given_reddening(maps, ebv):
    """What the caller gave, as `CCDData` in mag of the shape of the maps."""
    data = ebv.data * (ebv.unit or u.mag) if isinstance(ebv, NDData) else u.Quantity(ebv)
    if data.unit == u.dimensionless_unscaled:
        data = data.value * u.mag
    if not data.unit.is_equivalent(u.mag) or data.shape not in ((), maps.shape):
        raise ValueError(
            f"ebv has the shape {data.shape} and the unit {data.unit}; it must be a number or an array of shape "
            f"{maps.shape}, in mag"
        )
    mask = np.zeros(maps.shape, bool) | (False if getattr(ebv, "mask", None) is None else ebv.mask)
    result = CCDData(np.broadcast_to(data.to_value(u.mag), maps.shape), unit=u.mag, mask=mask, wcs=maps.wcs)
    if getattr(ebv, "uncertainty", None) is not None:
        sigma = ebv.uncertainty.represent_as(StdDevUncertainty).array
        result.uncertainty = StdDevUncertainty(np.broadcast_to(sigma, maps.shape))
    return result


def _error(data):
    """1-sigma errors, 0 where there are none."""
    return np.zeros(data.shape) if data.uncertainty is None else np.nan_to_num(data.uncertainty.array)


def _with_fluxes(maps, flux, covariance, matrix, bits, record):
    """Copy of ``maps`` with other fluxes: those of a linear map ``matrix`` of the errors of the old ones."""
    new = copy.copy(maps)
    new._data = maps._data | {"flux": (flux, np.moveaxis(_sigma(covariance), -1, 0), FLUX_UNIT)}
    lost = np.where(np.isfinite(flux), 0, np.int32(NO_DATA | DAPMask.NOCORRECTION))
    new._mask = maps._mask | {"flux": maps._mask["flux"] | bits | lost}
    new._covariance = covariance
    if maps.shared is not None:
        new.shared = np.einsum("...ij,kj...->ki...", matrix, maps.shared)
    new.meta = maps.meta | {"internal_extinction": record}
    # Spectra and components are those of the fluxes as observed.
    new.components, new.fitted = (), None
    return new


# ---------------------------------------------------------------- quality
def reduced_chi2(maps):
    """chi2 per degree of freedom of the fit, as `~astropy.nddata.CCDData`.

    Raises
    ------
    ValueError
        For maps that do not come with ``meta["chi2"]`` and ``meta["degrees_of_freedom"]``.
    """
    missing = [name for name in ("chi2", "degrees_of_freedom") if name not in maps.meta]
    if missing:
        raise ValueError(f"these maps hold no {' and no '.join(missing)} in meta: only those of fit_line_maps do")
    chi2, freedom = (np.asarray(maps.meta[name], dtype=np.float64) for name in ("chi2", "degrees_of_freedom"))
    value = np.divide(chi2, freedom, out=np.full(maps.shape, np.nan), where=freedom > 0)
    return maps._ccd(value, None, u.dimensionless_unscaled, np.zeros(maps.shape, np.int32))
