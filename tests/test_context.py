"""A few measured fibres of a galaxy: what they tell of its other positions, and what is refused."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.nddata import InverseVariance
from astropy.utils.exceptions import AstropyUserWarning
from specutils import Spectrum

from fiberifu import Flag, VirtualIFU
from fiberifu.datasets import example_image
from fiberifu.model import CoefficientMixture, FiberErrors, Node, reweighted

CENTER = SkyCoord(150.0, 2.0, unit="deg")  # of the image
NEAR = CENTER.directional_offset_by([0, 90, 200] * u.deg, [0.5, 4, 7] * u.arcsec)
FIELD = (0.9, 20.0)  # of the errors of lines


# --- the mathematics --------------------------------------------------------------------------------------------------
def mixtures(n, seed=3, k=4, j=3, r=3):
    """Predictions of k coefficients at n positions."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.rand((n, j), generator=g) + 0.2
    mean = torch.randn((n, j, k), generator=g).cumsum(1)
    return CoefficientMixture(
        weight / weight.sum(1, keepdim=True),
        mean,
        0.1 + 0.3 * torch.rand((n, j, k), generator=g),
        0.3 * torch.randn((n, j, k, r), generator=g),
    )


def measured_there(there, noise=0.7, seed=5):
    """Noisy coefficients of a draw of the mixture at the fibres, and their precisions."""
    g = torch.Generator().manual_seed(seed)
    n, _, k = there.mean.shape
    root = torch.randn((n, k, k), generator=g, dtype=torch.float64) * 0.3
    precision = torch.eye(k, dtype=torch.float64) / noise**2 + root @ root.transpose(1, 2)
    return there.at(torch.randn((n, 1 + there.root_size), generator=g)).double(), precision


def latents(offset, size, n):
    """Variables (n, F, 1 + size) as `draw_latent` gives them, by the covariance itself."""
    g = torch.Generator().manual_seed(11)
    covariance = FIELD[0] * torch.exp(-torch.cdist(offset, offset) / FIELD[1])
    half = torch.linalg.cholesky(covariance.fill_diagonal_(1.0))
    out = torch.randn((n, len(offset), 1 + size), generator=g)
    out[..., :-2] = torch.einsum("fg,sgt->sft", half, out[..., :-2])
    out[..., -1] = out[:, :1, -1]
    return out


@pytest.mark.parametrize("n", [1, 2])
def test_conditioning_is_that_of_weighted_draws(n):
    """Draws of fibres and positions together, weighted by the likelihood of what was measured, say the same."""
    here, there = mixtures(3), mixtures(n, seed=4)
    offset = torch.tensor([[1.0, 0.0], [6.0, 2.0], [40.0, 0.0]])
    fiber = torch.tensor([[0.0, 0.0], [8.0, 1.0]])[:n]
    best, precision = measured_there(there)
    given = FiberErrors(there, best, precision, fiber, FIELD).condition(here, offset)
    latent = latents(torch.cat([offset, fiber]), here.root_size, 40_000)

    def draw(mixture, first):
        each = (mixture.take(torch.full((len(latent),), i)).at(latent[:, first + i]) for i in range(len(mixture.mean)))
        return torch.stack(list(each), 1).double()

    draws, measured = draw(here, 0), draw(there, 3)
    step = measured - best
    weight = (-0.5 * torch.einsum("snk,nkl,snl->s", step, precision, step)).softmax(0)
    effective = 1 / (weight**2).sum()
    assert effective > 500
    mean = torch.einsum("s,sfk->fk", weight, draws)
    sigma = torch.einsum("s,sfk->fk", weight, (draws - mean) ** 2).sqrt()
    found = given.collapse()
    spread = (found.root**2).sum(-1).sqrt()
    error = sigma / effective**0.5
    assert float(((found.mean - mean).abs() / error).max()) < 4.5
    assert float((spread / sigma - 1).abs().max()) < 3.5 / effective**0.5 + 0.02
    prior = here.collapse()
    assert float(((found.mean - prior.mean).abs() / error)[:2].max()) > 8, "the fibres should change something"


@pytest.fixture(scope="module")
def given():
    """Fibres, positions, and what they say of each other."""
    here, there = mixtures(40), mixtures(2, seed=4)
    offset = torch.randn((40, 2), generator=torch.Generator().manual_seed(1)) * 5
    fiber = torch.tensor([[0.0, 0.0], [8.0, 1.0]])
    errors = FiberErrors(there, *measured_there(there), fiber, FIELD)
    return errors, here, offset, errors.condition(here, offset)


def test_draws_are_those_of_the_conditioned_mixture(given):
    errors, here, offset, mixture = given
    draws = torch.stack([errors.sample(here, offset, torch.Generator().manual_seed(i)) for i in range(1500)]).double()
    found, wanted = draws.mean(0), mixture.collapse()
    sigma = (wanted.root**2).sum(-1).sqrt()
    assert float(((found - wanted.mean).abs() / sigma).max()) < 4.5 / 1500**0.5
    assert float((draws.std(0) / sigma - 1).abs().max()) < 0.12
    # and coherent: neighbours err together
    pair, where = here.take(torch.zeros(2, dtype=torch.int64)), torch.tensor([[9.0, 9.0], [9.5, 9.0]])
    pair = torch.stack([errors.sample(pair, where, torch.Generator().manual_seed(i)) for i in range(300)])
    assert torch.corrcoef(pair[..., 0].T)[0, 1] > 0.4


def test_company_of_positions_does_not_matter(given):
    errors, here, offset, mixture = given
    alone = errors.condition(here.take(torch.tensor([7])), offset[7:8])
    for name in ("weight", "mean", "factors"):
        torch.testing.assert_close(getattr(alone, name)[0], getattr(mixture, name)[7], rtol=1e-5, atol=1e-5)


def test_nothing_measured_changes_nothing():
    here, there = mixtures(5), mixtures(1, seed=4)
    offset = torch.linspace(0, 8, 10).reshape(5, 2)
    errors = FiberErrors(there, torch.zeros(1, 4), torch.zeros(1, 4, 4).double(), torch.zeros(1, 2), FIELD)
    found, wanted = errors.condition(here, offset).collapse(), here.collapse()
    torch.testing.assert_close(found.mean, wanted.mean, rtol=0, atol=0.01)
    torch.testing.assert_close((found.root**2).sum(-1), (wanted.root**2).sum(-1), rtol=0.02, atol=0.0)


def test_far_from_all_fibers_nothing_changes_but_the_zero_points(given):
    errors, here, _, _ = given
    far = errors.condition(here, torch.full((40, 2), 1e4)).collapse()
    moved = far.mean - here.collapse().mean
    assert float(moved.abs().max()) > 0.01
    near = errors.condition(here, torch.zeros(40, 2)).collapse().mean - here.collapse().mean
    assert float(near.abs().median()) > 5 * float(moved.abs().median())


def test_more_precise_fibers_leave_less(given):
    errors, here, offset, mixture = given
    there = mixtures(2, seed=4)
    best, precision = measured_there(there)
    better = FiberErrors(there, best, 20 * precision, errors.offset, FIELD).condition(here, offset)
    ratio = (better.collapse().root ** 2).sum((1, 2)) / (mixture.collapse().root ** 2).sum((1, 2))
    assert float(ratio.median()) < 0.9


def test_redshifts_are_weighed_by_what_was_measured():
    there = mixtures(1, seed=4)
    best, precision = measured_there(there)
    makes = [FiberErrors(there, x, precision, torch.zeros(1, 2), FIELD) for x in (best, best + 4)]
    nodes = [Node(0.1, 0.5, there, torch.ones(1)).given(x, torch.ones(1, 2)) for x in makes]
    first, second = (node.weight for node in reweighted(nodes))
    assert first > 0.95 and first + second == pytest.approx(1)
    alone = [Node(0.1, 0.5, there, torch.ones(1))] * 2
    assert reweighted(alone) is alone


# --- through the public interface -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def ifu():
    return VirtualIFU.from_pretrained()


@pytest.fixture(scope="module")
def image():
    return example_image()


def spectra(prediction):
    return prediction.spectrum().flux.value


def telescope(spectrum, factor=1.0, **keywords):
    """A spectrum as if it came from a telescope: no trace of the prediction in its metadata."""
    keywords = {"spectral_axis": u.Quantity(spectrum.spectral_axis), "uncertainty": spectrum.uncertainty} | keywords
    return Spectrum(spectrum.flux * factor, **keywords, meta={})


def stronger_lines(prediction, factor):
    """The first spectrum of a prediction with other lines."""
    continuum = prediction.continuum()[0]
    spectrum = prediction.spectrum()[0]
    return Spectrum(
        continuum + factor * (spectrum.flux - continuum),
        spectral_axis=spectrum.spectral_axis,
        uncertainty=InverseVariance(np.full(len(continuum), 100.0) * spectrum.flux.unit**-2),
    )


def test_a_fiber_with_strong_lines_makes_lines_strong(ifu, image):
    p = ifu.predict(image, NEAR)
    fiber = stronger_lines(p, 2.0)
    helped = ifu.predict(image, NEAR, context=[(fiber, NEAR[0])])
    before, after = (x.line_quantiles((0.16, 0.5, 0.84), ["Ha"]).value[:, 0] for x in (p, helped))
    gain = after[1] / before[1]
    assert 1.5 < gain[0] < 2.2 and (1.1 < gain[1:]).all() and (gain[1:] < gain[0]).all()
    width = (after[2] - after[0]) / after[1] / ((before[2] - before[0]) / before[1])
    assert (width < 0.9).all() and width[0] < 0.7, "intervals should be narrower"
    assert helped.provenance.extra["NCONTEXT"] == 1 and p.provenance.extra["NCONTEXT"] == 0
    # light is as the image says: lines move the bands a little, no more
    assert np.abs(helped.self_check["residual"].value).max() < 0.05


def test_real_fibers_are_calibrated_as_point_sources(ifu, image):
    fiber = stronger_lines(ifu.predict(image, NEAR), 1.5)
    once, brighter = (ifu.predict(image, NEAR[1], context=[(telescope(fiber, f), NEAR[0])]) for f in (1.0, 1.8))
    np.testing.assert_allclose(spectra(brighter), spectra(once), rtol=0.05, atol=0.02)


def test_a_fiber_moves_at_its_own_velocity(ifu, image):
    """Lines are found where the fibre has them, and are not lost for a rotation of 200 km/s."""
    p = ifu.predict(image, NEAR)
    fiber = stronger_lines(p, 2.0)
    moving = Spectrum(
        fiber.flux, spectral_axis=fiber.spectral_axis * (1 + 200 / 299792.458), uncertainty=fiber.uncertainty
    )
    still, moved = (
        ifu.predict(image, NEAR[1], context=[(x, NEAR[0])]).line_maps(["Ha"]).flux["Ha"].data for x in (fiber, moving)
    )
    assert float(moved) == pytest.approx(float(still), rel=0.05)


def test_mask_and_grid(ifu, image):
    """Masked pixels carry nothing, on the network's grid or any other."""
    spectrum = ifu.observe(image, NEAR[0])
    wave = np.arange(3700.0, 9500, 1.5) * u.AA
    for grid in (spectrum.spectral_axis, wave):
        flux = np.interp(grid.to_value(u.AA), spectrum.spectral_axis.to_value(u.AA), spectrum.flux.value)
        mask = np.zeros(len(flux), bool)
        mask[1000:1200] = True
        keywords = {"spectral_axis": grid, "uncertainty": InverseVariance(np.full(len(flux), 9.0)), "mask": mask}
        spoilt = np.where(mask, 1e4, flux)
        a, b = (
            ifu.predict(image, NEAR[1], context=[(Spectrum(f * spectrum.flux.unit, **keywords), NEAR[0])])
            for f in (flux, spoilt)
        )
        np.testing.assert_allclose(spectra(a), spectra(b), rtol=1e-4, atol=1e-4)


def test_gaps_are_no_darkness(ifu, image):
    """A fibre that shows a part of the spectrum is brought to the image's flux by that part."""
    p = ifu.predict(image, NEAR)
    fiber = stronger_lines(p, 1.0)
    wave = fiber.spectral_axis.to_value(u.AA)
    gaps = np.random.default_rng(1).random(len(wave)) < 0.4, (wave < 4300) | (wave > 9000)
    for mask in gaps:
        part = Spectrum(fiber.flux, spectral_axis=fiber.spectral_axis, uncertainty=fiber.uncertainty, mask=mask)
        q = ifu.predict(image, NEAR, context=[(part, NEAR[0])])
        assert np.abs(q.self_check["residual"].value).max() < 0.03
        np.testing.assert_allclose(q.line_maps(["Ha"]).flux["Ha"].data, p.line_maps(["Ha"]).flux["Ha"].data, rtol=0.12)


def test_the_scale_stays_that_of_the_image(ifu, image):
    """A spectrum that was brought to the image's flux does not make that flux better known."""
    p = ifu.predict(image, NEAR)
    q = ifu.predict(image, NEAR, context=[(stronger_lines(p, 1.0), NEAR[0])])
    before, after = (x.nodes[0].gaussian for x in (p, q))
    error = [(g.root[:, 0] ** 2).sum(-1).sqrt() for g in (before, after)]  # of the continuum's level
    assert (error[1] > 0.8 * error[0]).all()


def test_order_of_fibers(ifu, image):
    p = ifu.predict(image, NEAR)
    fibers = [(stronger_lines(p, 1.5), NEAR[0]), (stronger_lines(p, 1.2), NEAR[2])]
    a, b = (ifu.predict(image, NEAR[1], context=x) for x in (fibers, fibers[::-1]))
    np.testing.assert_allclose(spectra(a), spectra(b), rtol=0.03, atol=0.01)


def test_a_file_of_a_prediction_with_context(ifu, image, tmp_path):
    """Error factors are as few as there are coefficients, and give the errors of pixels back."""
    from fiberifu.cube import read_spectra

    p = ifu.predict(image, NEAR)
    helped = ifu.predict(image, NEAR, context=[(stronger_lines(p, 1.5), NEAR[0])])
    helped.write(tmp_path / "predicted.fits")
    again = read_spectra(tmp_path / "predicted.fits")
    np.testing.assert_allclose(again.flux.value, spectra(helped), rtol=1e-5)
    k = len(helped.nodes[0].gaussian.mean[0])
    assert helped.nodes[0].gaussian.factors.shape == (3, k, k)


def test_refusals(ifu, image):
    spectrum = ifu.observe(image, NEAR[0])
    good = telescope(spectrum)
    with pytest.raises(ValueError, match=r"context\[0\]=.*give .Spectrum, SkyCoord. pairs"):
        ifu.predict(image, NEAR[1], context=[good])
    with pytest.raises(ValueError, match="outside"):
        ifu.predict(image, NEAR[1], context=[(good, SkyCoord(10, 10, unit="deg"))])
    with pytest.raises(ValueError, match="is a prediction of fiberifu"):
        ifu.predict(image, NEAR[1], context=[(spectrum, NEAR[0])])
    with pytest.raises(ValueError, match="at most 8"):
        ifu.predict(image, NEAR[1], context=[(good, NEAR[0])] * 9)
    with pytest.raises(ValueError, match="km/s from that of the galaxy"):
        ifu.predict(image, NEAR[1], redshift=0.05, context=[(telescope(spectrum, redshift=0.07), NEAR[0])])
    with pytest.raises(ValueError, match="less than 0.5 arcsec away"):
        ifu.predict(image, NEAR[1], context=[(good, NEAR[0])] * 2)
    with pytest.raises(ValueError, match="too uncertain to find lines"):
        ifu.predict(image, NEAR[1], redshift=(0.05, 0.02), context=[(good, NEAR[0])])
    bare = VirtualIFU(ifu._model, passport={}, card="", sha256="0")
    with pytest.raises(ValueError, match="fiberifu calibrate"):
        bare.predict(image, NEAR[1], context=[(good, NEAR[0])])


def test_a_fiber_of_something_else_is_told(ifu, image):
    spectrum = telescope(ifu.observe(image, NEAR[0], redshift=0.05))
    with pytest.warns(AstropyUserWarning, match="unlike what the image predicts"):
        p = ifu.predict(image, NEAR[1], context=[(spectrum, NEAR[0])])
    assert p.flags & Flag.CONTEXT_UNLIKE
    # and however good it is, it moves the prediction little: by less than the errors
    plain = ifu.predict(image, NEAR[1])
    moved = p.line_maps(["Ha"]).flux["Ha"].data - plain.line_maps(["Ha"]).flux["Ha"].data
    assert abs(moved) < 0.5 * plain.line_maps(["Ha"]).flux["Ha"].uncertainty.array


def test_a_fiber_brings_its_redshift(ifu, image):
    real = telescope(ifu.observe(image, NEAR[0], redshift=0.05), redshift=0.05)
    with pytest.raises(ValueError, match="that of the image"):
        ifu.predict(image, NEAR[1], context=[(real, NEAR[0])])
    blank = {band: ccd.copy() for band, ccd in image.items()}
    for ccd in blank.values():
        del ccd.meta["REDSHIFT"]
    p = ifu.predict(blank, NEAR[1], context=[(real, NEAR[0])])
    assert p.redshift == pytest.approx(0.05) and p.provenance.redshift_source == "context"


def test_a_spectrum_tells_the_redshift(ifu, image):
    """Of an uncertain redshift, what a fibre shows is left; and a fibre without a good pixel says nothing."""
    p = ifu.predict(image, NEAR, redshift=0.03)
    fiber = stronger_lines(p, 1.0)
    wide = ifu.predict(image, NEAR[1], redshift=(0.031, 0.002), context=[(fiber, NEAR[0])])
    assert len(wide.nodes) > 3 and sum(x.weight for x in wide.nodes if abs(x.redshift - 0.03) < 0.0008) > 0.99
    blind = Spectrum(fiber.flux, spectral_axis=fiber.spectral_axis, uncertainty=fiber.uncertainty,
                     mask=np.ones(len(fiber.flux), bool))  # fmt: skip
    nothing = ifu.predict(image, NEAR[1], redshift=0.03, context=[(blind, NEAR[0])])
    np.testing.assert_allclose(spectra(nothing), spectra(p)[1], rtol=0.01, atol=0.005)
