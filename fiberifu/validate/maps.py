# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What is judged and against what: `TruthMaps` of one galaxy with its image, `PredictedMaps` of one method.

Plain arrays, so that thousands of galaxies fit in memory and in files. n positions, L = 15 lines of
`fiberifu.model.LINES`, C = 4 bands (g, r, i, z), M positions with whole spectra. Fluxes are those in the network's
aperture (a disc of 1.5 arcsec) at the PSF of the image, at every position: neighbouring apertures overlap, so sums are
of surface brightness x area of a cell of the grid, never of fluxes.
"""

import dataclasses

import numpy as np

__all__ = ["APERTURE_AREA", "CONTINUUM", "LEVELS", "PredictedMaps", "Predictor", "TruthMaps"]

#: Of the network's aperture, arcsec2.
APERTURE_AREA = np.pi / 4 * 1.5**2

#: Continuum below a line that is called zero when an equivalent width needs it, 1e-17 erg/s/cm2/Angstrom.
CONTINUUM = 1e-4

#: Probabilities of the quantiles of predicted distributions.
LEVELS = (0.005, 0.025, 0.05, 0.1, 0.16, 0.25, 0.375, 0.5, 0.625, 0.75, 0.84, 0.9, 0.95, 0.975, 0.995)


@dataclasses.dataclass(frozen=True, eq=False)
class TruthMaps:
    """One galaxy: what a method may see (image, redshift, positions), and what is true there.

    Attributes
    ----------
    name : str
        ``SIM <seed>-<index>``.
    seed, index : int
    image, sigma : ndarray (4, S, S) of float32
        Surface brightness and its error, nanomaggy / arcsec2, rows to the North, columns to the **East**; sigma is inf
        where nothing was measured. Bands matched to one PSF.
    present : ndarray (4,) of bool
    psf_fwhm : float
        Of all bands, arcsec.
    pixel_scale : float
        arcsec.
    redshift : float
        Systemic; what methods are given.
    spaxel : float
        Step of the grid of positions, arcsec; NaN where they are bins of unlike size, of which no sums are made.
    row, column : ndarray (n,) of int
        Place of each position in the grid; columns grow to the East.
    east, north : ndarray (n,)
        From the centre of the stamp, arcsec.
    radius : ndarray (n,)
        Deprojected, in effective radii.
    flux, ew : ndarray (n, 15)
        True line fluxes, 1e-17 erg/s/cm2 in the aperture, and rest-frame equivalent widths, Angstrom (conventions: gas
        alone, emission positive, MaNGA DAP sidebands).
    depth : ndarray (15,)
        1-sigma error that MaNGA would have on each line's flux in the aperture, 1e-17 erg/s/cm2; inf off its grid.
    band : ndarray (n, 4)
        True flux in the bands in the aperture, nanomaggy.
    velocity : ndarray (n,)
        Of the gas relative to the system, km/s.
    peak_distance : ndarray (n,)
        From the nearest peak of the light in r, arcsec.
    strata : dict of str to bool
        Labels of `fiberifu.simulate.STRATA`.
    properties : dict of str to float
        Truths about the galaxy: re_arcsec, log_mass, log_sfr, inclination (degrees) ...
    wave : ndarray (N,)
        Of the spectra, vacuum Angstrom.
    spectrum_at : ndarray (M,) of int
        Positions whose noiseless true spectrum is kept.
    spectrum : ndarray (M, N)
        1e-17 erg/s/cm2/Angstrom.
    central_flux, central_ivar : ndarray (N,)
        What a fibre on the centre measured, with noise, anchored to the image as in training.
    central_offset : ndarray (2,)
        East, north of that fibre, arcsec.
    """

    name: str
    seed: int
    index: int
    image: np.ndarray
    sigma: np.ndarray
    present: np.ndarray
    psf_fwhm: float
    pixel_scale: float
    redshift: float
    spaxel: float
    row: np.ndarray
    column: np.ndarray
    east: np.ndarray
    north: np.ndarray
    radius: np.ndarray
    flux: np.ndarray
    ew: np.ndarray
    depth: np.ndarray
    band: np.ndarray
    velocity: np.ndarray
    peak_distance: np.ndarray
    strata: dict
    properties: dict
    wave: np.ndarray
    spectrum_at: np.ndarray
    spectrum: np.ndarray
    central_flux: np.ndarray
    central_ivar: np.ndarray
    central_offset: np.ndarray

    def __len__(self):
        return len(self.east)

    def grid(self, values, fill=np.nan):
        """Values (n,) of the positions as a map (ny, nx), rows to the North, columns to the East."""
        out = np.full((self.row.max() + 1, self.column.max() + 1), fill, dtype=np.result_type(values, type(fill)))
        out[self.row, self.column] = values
        return out


@dataclasses.dataclass(frozen=True, eq=False)
class PredictedMaps:
    """What one method says about the lines at the positions of one `TruthMaps`.

    Attributes
    ----------
    flux, flux_sigma : ndarray (n, 15)
        1e-17 erg/s/cm2 in the aperture; NaN for a position or line that it does not predict; ``flux_sigma`` NaN for a
        method without errors.
    ew, ew_sigma : ndarray (n, 15)
        Rest frame, Angstrom.
    covariance : ndarray (n, 15, 15), optional
        Of the fluxes of one position, for errors of ratios; independent without it.
    velocity, velocity_sigma : ndarray (n,), optional
        Of the gas, km/s; None for methods that predict none.
    spectrum, spectrum_sigma : ndarray (M, N), optional
        At ``truth.spectrum_at``, on ``truth.wave``.
    quantiles : dict of str to ndarray (n, len(LEVELS)), optional
        Of the distributions at `LEVELS`, for errors that are no Gaussians: of fluxes "Ha", "Hb", "O3", "N2", "S2", "O2"
        (S2 and O2: of the sum of the doublet), equivalent widths "EW Ha" ..., and ratios of fluxes "N2/Ha", "O3/Hb",
        "S2/Ha", "Ha/Hb" (not their logarithms). Any of them; NaN where not predicted. Medians are then the best guess
        of logarithms; ``flux`` stays the mean, and needs its sigma as well. Gaussians without.
    coherence : (float, float), optional
        Amplitude and length [arcsec] of the correlation of the errors of line fluxes at two positions a distance d
        apart, ``amplitude exp(-d / length)``; 1 for a position with itself. Independent without.
    """

    flux: np.ndarray
    flux_sigma: np.ndarray
    ew: np.ndarray
    ew_sigma: np.ndarray
    covariance: np.ndarray | None = None
    velocity: np.ndarray | None = None
    velocity_sigma: np.ndarray | None = None
    spectrum: np.ndarray | None = None
    spectrum_sigma: np.ndarray | None = None
    quantiles: dict | None = None
    coherence: tuple | None = None


class Predictor:
    """A method that predicts line maps: one loop judges them all.

    Attributes
    ----------
    name : str
        For tables and legends.
    key : str
        Hash of everything that decides its predictions (weights, training set): cached results are kept under it.
    role : {'', 'null', 'null limit', 'light only'}
        'null': may not exceed the method that is 'null limit', which knows redshift and position alone. 'light only':
        not compared in what is known beyond the light.
    """

    name = "?"
    key = "?"
    role = ""

    def predict(self, galaxy):
        """Lines at the positions of a galaxy; looks at nothing but its image, redshift, positions and central fibre.

        Parameters
        ----------
        galaxy : TruthMaps

        Returns
        -------
        PredictedMaps
        """
        raise NotImplementedError
