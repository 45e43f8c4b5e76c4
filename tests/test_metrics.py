# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Scores and calibration are honest: what is known beforehand comes out, and what is no skill is not called skill."""

import numpy as np

from fiberifu.model import LINES
from fiberifu.validate import PredictedMaps, TruthMaps, measure_scores

#: Flux relative to H-alpha, without and with metals.
RATIO = dict(O2_3726=0.5, O2_3729=0.7, Ne3_3869=0.05, Hd=0.09, Hg=0.16, Hb=0.33, O3_4959=0.1, O3_5007=0.3,
             He1_5876=0.04, O1_6300=0.03, N2_6548=0.1, Ha=1.0, N2_6583=0.3, S2_6716=0.2, S2_6731=0.15)  # fmt: skip


def make_truth(index, rng, n=60, pixels=0):
    """A disc whose H-alpha does not follow its light: log EW scatters by 0.3 dex inside, by 0.2 between galaxies."""
    radius = np.sqrt(rng.uniform(0, 1.8**2, n))
    angle = rng.uniform(0, 2 * np.pi, n)
    light = 10 ** (0.5 - 0.7 * radius + rng.normal(0, 0.05, n))
    log_ew = 1.0 + rng.normal(0, 0.2) + rng.normal(0, 0.3, n)
    metals = 0.25 - rng.normal(0.3, 0.2) * radius + rng.normal(0, 0.05, n)  # log [N II]/H-alpha above its mean
    oxygen = rng.normal(0, 0.4) - 0.8 * metals + rng.normal(0, 0.1, n)
    ratio = np.array([RATIO[line] for line in LINES]) * np.ones((n, 1))
    for line, shift in (("N2_6548", metals), ("N2_6583", metals), ("O3_4959", oxygen), ("O3_5007", oxygen)):
        ratio[:, LINES.index(line)] *= 10**shift
    ew = 10 ** log_ew[:, None] * ratio
    wave = np.linspace(4000, 9000, pixels)
    place = np.arange(n)
    nothing = np.zeros(0)
    return TruthMaps(
        name=f"SIM 1-{index}", seed=1, index=index, image=nothing, sigma=nothing, present=np.ones(4, bool),
        psf_fwhm=1.2, pixel_scale=0.262, redshift=0.05, spaxel=0.75, row=place // 10, column=place % 10,
        east=4 * radius * np.cos(angle), north=4 * radius * np.sin(angle), radius=radius,
        flux=ew * light[:, None], ew=ew,
        depth=np.full(15, 0.1), band=light[:, None] * np.array([0.5, 1, 1.3, 1.5]), velocity=150 * np.cos(angle),
        peak_distance=4 * radius, strata={"agn": index % 3 == 0, "merger": False},
        properties={"inclination": float(rng.uniform(0, 90)), "re_arcsec": 4.0}, wave=wave,
        spectrum_at=place[:: n // 2], spectrum=rng.uniform(1, 2, (len(place[:: n // 2]), pixels)),
        central_flux=nothing, central_ivar=nothing, central_offset=np.zeros(2),
    )  # fmt: skip


def make_truths(galaxies=40, seed=0, **options):
    rng = np.random.default_rng(seed)
    return [make_truth(i, rng, **options) for i in range(galaxies)]


def as_prediction(truth, flux=None, ew=None, flux_sigma=None, ew_sigma=None, **rest):
    flux, ew = (truth.flux if flux is None else flux), (truth.ew if ew is None else ew)
    nothing = np.full(truth.flux.shape, np.nan)
    return PredictedMaps(
        flux=flux, flux_sigma=nothing if flux_sigma is None else flux_sigma, ew=ew,
        ew_sigma=nothing if ew_sigma is None else ew_sigma, **rest,
    )  # fmt: skip


def find(rows, score, quantity="Ha", region="whole", stratum="all", predictor=None):
    key = dict(score=score, quantity=quantity, region=region, stratum=stratum)
    key |= {} if predictor is None else {"predictor": predictor}
    found = [row for row in rows if all(row[k] == v for k, v in key.items())]
    assert len(found) == 1, f"{len(found)} rows of {key}"
    return found[0]


def test_perfect():
    truths = make_truths()
    rows = measure_scores({"perfect": [as_prediction(t, velocity=t.velocity) for t in truths]}, truths, draws=20)
    for r in rows:
        print(r)
