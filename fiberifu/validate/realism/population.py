# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Who is in the simulated universe, and whom its surveys choose."""

import numpy as np

from .comparison import Comparison
from .measures import bootstrap
from .sample import SURVIVING

__all__ = ["QUANTILES", "compare_population", "make_population", "make_population_table", "read_population"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_NAN = float("nan")
_NAMES = {"redshift": "z", "r": "r (mag)", "log_mass": "log M (Msun, now)", "log_ssfr": "log sSFR (1/yr)"}

# Surface densities, 1/deg2: the SDSS Main sample, r < 17.77 (Strauss et al. 2002), and BGS Bright, r < 19.5
# (Hahn et al. 2023, AJ 165, 253; about 800 in Ruiz-Macias et al. 2020, RNAAS 4, 187).
_MAIN, _BRIGHT = 92.0, 864.0


def read_population(simulator, seed, galaxies):
    """Draws of the universe, and the galaxies of the two surveys.

    Parameters
    ----------
    simulator : `~fiberifu.simulate.Simulator`
    seed : int
    galaxies : int
        Of each survey.

    Returns
    -------
    strata : dict of str to float
        Shares in 2000 galaxies.
    surveys : dict of str to dict of ndarray (galaxies,)
        ``DESI`` and ``MaNGA``: redshift, r, log_mass (in stars now), log_ssfr (over 1e8 yr); of MaNGA also ``primary``,
        whether a galaxy stands for the Primary+ sample.
    """
    import torch

    from ...simulate.photometry import Photometry
    from ...simulate.recipe import Draws, draw_galaxies
    from ...simulate.selection import choose_desi, choose_manga, manga_wish
    from ...simulate.survey import STRATA
    from ...simulate.targets import centred

    drawn = draw_galaxies(Draws(seed, range(2000)))
    strata = {name: float(drawn[name].float().mean()) for name in STRATA}
    simulator, surveys = centred(simulator), {}
    for name, choose in (("DESI", choose_desi), ("MaNGA", choose_manga)):
        rows = []
        with torch.no_grad():
            for slot in range(galaxies):
                scene = choose(simulator, seed, slot)[1]
                g = scene["g"]
                mass = float(g["log_mass"]) + SURVIVING
                r = float(Photometry(simulator, scene).r_mag)
                rows.append((float(g["redshift"]), r, mass, float(g["log_sfr"]) - mass))
        surveys[name] = dict(zip(_NAMES, np.array(rows).T, strict=True))
    surveys["MaNGA"]["primary"] = np.array([manga_wish(seed, slot)[2] == "primary" for slot in range(galaxies)])
    return strata, surveys


def compare_population(strata, surveys):
    """Quantiles of the surveys against published ones; parameters as `read_population` returns them."""
    desi, manga = surveys["DESI"], surveys["MaNGA"]
    bgs = "DESI BGS: z = 0.05-0.4, median about 0.2 (Ruiz-Macias et al. 2020, RNAAS 4, 187)"
    counts = f"{_MAIN:.0f} / {_BRIGHT:.0f} per deg2 (Strauss et al. 2002, AJ 124, 1810; Hahn et al. 2023)"
    wake = "Primary: z about 0.03 on average (Bundy et al. 2015, ApJ 798, 7; approximate)"
    second = "Secondary: z about 0.045 on average (Bundy et al. 2015, ApJ 798, 7; approximate)"
    flat = "MaNGA: flat in M_i, 5e8-3e11 Msun/h2 (Wake et al. 2017, AJ 154, 86): the middle, h = 0.7"
    tail = "MaNGA: flat in M_i, 5e8-3e11 Msun/h2 (Wake et al. 2017, AJ 154, 86): 0.05 below the end, h = 0.7"
    wished = "drawn so (`fiberifu.simulate.selection`)"
    follows = "not drawn: it follows from the masses and bundles that are, and the universe's sizes"
    quiescent = "context: no published share for this cut"
    slope = np.log10(_BRIGHT / _MAIN) / (19.5 - 17.77)
    first = manga["primary"]
    desi, manga = ({key: survey[key] for key in _NAMES} for survey in (desi, manga))
    samples = {"primary": manga["redshift"][first], "secondary": manga["redshift"][~first]}
    table = (
        ("DESI", "median redshift", "redshift", np.median, (0.2, 0.01), "", 0.04, "same", bgs, wished),
        ("DESI", "5 % quantile of redshift", "redshift", _quantile(0.05), (0.05, 0.02), "", 0.03, "same", bgs, wished),
        ("DESI", "95 % quantile of redshift", "redshift", _quantile(0.95), (0.4, 0.03), "", 0.06, "same", bgs, wished),
        ("DESI", "share brighter than r = 17.77", "r", lambda r: np.mean(r < 17.77), (_MAIN / _BRIGHT, 0.005), "",
         0.05, "same", counts, wished),
        ("DESI", "median r", "r", np.median, (19.5 - np.log10(2) / slope, 0.05), "mag", 0.2, "same", counts,
         f"counts rise by {slope:.2f} dex per mag between the two limits; {wished}"),
        ("DESI", "share with sSFR below 1e-11 / yr", "log_ssfr", lambda s: np.mean(s < -11), (_NAN, _NAN), "", 0.1,
         "context", quiescent, ""),
        ("MaNGA", "mean redshift, Primary", "primary", np.mean, (0.03, 0.003), "", 0.01, "same", wake, follows),
        ("MaNGA", "mean redshift, Secondary", "secondary", np.mean, (0.045, 0.005), "", 0.015, "same", second, follows),
        ("MaNGA", "median log mass", "log_mass", np.median, (10.4, 0.1), "dex (Msun)", 0.3, "same", flat,
         f"{wished}, from 9.0 to 11.2, whose middle is 10.1; flat in M_i is not quite flat in mass, either"),
        ("MaNGA", "95 % quantile of log mass", "log_mass", _quantile(0.95), (11.66, 0.1), "dex (Msun)", 0.3, "same",
         tail, "wishes end at 11.2, beyond which the universe has almost nothing at these redshifts"),
        ("MaNGA", "share with sSFR below 1e-11 / yr", "log_ssfr", lambda s: np.mean(s < -11), (_NAN, _NAN), "", 0.1,
         "context", quiescent, ""),
    )  # fmt: skip
    rows = []
    for survey, name, key, statistic, real, unit, threshold, kind, against, note in table:
        values = {"DESI": desi, "MaNGA": manga | samples}[survey][key]
        if not len(values):
            continue  # a very small survey
        simulated = bootstrap(statistic, values)
        rows.append(
            Comparison(
                *("Survey", f"{survey}: {name}", *simulated, *real, unit, len(values), 0, threshold, kind, against),
                *("survey", note),
            )
        )
    return rows, {"DESI": desi, "MaNGA": manga}


def _quantile(q):
    return lambda x: np.quantile(x, q)


def make_population(strata, surveys):
    """The population as plain numbers, for the report.

    Returns
    -------
    dict
        ``strata``: shares; ``quantiles``: of each survey and property, at `QUANTILES`; ``galaxies`` of each survey.
    """
    return {
        "strata": strata,
        "galaxies": len(next(iter(surveys["DESI"].values()))),
        "quantiles": {
            survey: {
                key: [float(np.quantile(values, q)) for q in QUANTILES]
                for key, values in columns.items()
                if key in _NAMES
            }
            for survey, columns in surveys.items()
        },
    }


def make_population_table(population):
    """The same in reStructuredText, for the documentation."""
    lines = ["Shares in 2000 galaxies of the simulated universe; a galaxy may belong to several:", ""]
    lines += [".. list-table::", "   :header-rows: 1", "", "   * - stratum", "     - share"]
    for name, share in population["strata"].items():
        lines += [f"   * - {name.replace('_', ' ')}", f"     - {100 * share:.1f} %"]
    lines += ["", f"Quantiles of the galaxies that the simulated surveys choose, {population['galaxies']} of each:", ""]
    lines += [".. list-table::", "   :header-rows: 1", ""]
    rows = [("survey", "property", *(f"{100 * q:.0f} %" for q in QUANTILES))]
    for survey, columns in population["quantiles"].items():
        rows += [(survey, _NAMES[key], *(f"{x:.3g}" for x in values)) for key, values in columns.items()]
    for row in rows:
        lines += [f"   {' ' if i else '*'} - {cell}" for i, cell in enumerate(row)]
    return "\n".join([*lines, ""])
