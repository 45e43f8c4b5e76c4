# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Which comparisons the simulator was tuned with: agreement there is no test of it.

Every comparison is in one of the two lists, found by its group and a part of its name; the first that fits counts. In
doubt it is `tuned`.
"""

from dataclasses import replace

__all__ = ["BASES", "RULES", "mark"]

BASES = ("tuned", "held out")

_POPULATION = "shares of quenched and green-valley galaxies, ages, metallicity of bulges, dust of discs"
_EDR = "efficiency of the arms and scale of the noise: set with these coadds"
_NEBULAR = "ionisation parameter, metallicity of the gas, N/O, boosts of diffuse gas"

#: (group, part of the name, basis, constants of the simulator that the comparison has set, or why it has set none).
RULES = (
    ("Colours", "", "tuned", _POPULATION),
    ("Spectra", "residual of the best mixture", "held out", "depends on the templates, which are not changed"),
    ("Spectra", "reduced chi2", "held out", "depends on the templates, which are not changed"),
    ("Spectra", "twin", "tuned", _POPULATION),
    ("Spectra", "Dn4000", "tuned", _POPULATION),
    ("Spectra", "below 2 A", "tuned", "EW of gas ionised by old stars, " + _POPULATION),
    ("Spectra", "log EW", "tuned", "main sequence, bursts, share of ionising photons lost"),
    ("Spectra", "H-alpha / H-beta", "tuned", "dust of discs, of clumps and of the gas"),
    ("Noise", "DESI", "tuned", _EDR),
    ("Noise", "MaNGA", "tuned", "throughput of the bundles: set with these spaxels"),
    ("Noise", "Legacy", "tuned", "depths of the images"),
    ("Emission lines", "AGN hosts", "held out", "ratios of the narrow-line tables at published parameters"),
    ("Emission lines", "scatter of log EW", "tuned", "bursts and lost ionising photons: made to reach the value"),
    ("Emission lines", "", "tuned", _NEBULAR),
    ("Scaling relations", "resolved", "held out", "follows from maps of mass and of star formation"),
    ("Scaling relations", "Tully-Fisher", "tuned", "speed of rotation: slope and scatter of the same relation"),
    ("Scaling relations", "O/H", "tuned", "metallicity of the gas against mass"),
    ("Scaling relations", "N2 metallicity", "tuned", "metallicity of the gas against mass"),
    ("Scaling relations", "main-sequence", "tuned", "main sequence of the recipe"),
    ("Scaling relations", "SFR(H-alpha)", "tuned", "share of ionising photons lost, dust of the gas"),
    ("Scaling relations", "log H-alpha size", "tuned", "scale length of star formation"),
    ("Scaling relations", "size", "tuned", "sizes are drawn from the same relation"),
    ("Survey", "sSFR", "held out", "what the universe has at the redshifts, magnitudes and masses that are drawn"),
    ("Survey", "MaNGA: mean redshift", "held out", "not drawn: follows from masses, bundles and sizes"),
    ("Survey", "", "tuned", "surveys draw what they wish for from the published distributions"),
)


def mark(row):
    """A `Comparison` with its basis and the constants behind it.

    Raises
    ------
    ValueError
        If no rule fits.
    """
    for group, part, basis, why in RULES:
        if row.group == group and part in row.name:
            return replace(row, basis=basis, constants=why)
    raise ValueError(f"row: {row.group!r}, {row.name!r} is not in RULES; say there whether it was tuned or held out")
