# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What the columns of ``truth_sim.fits`` are: units and words for each, so that the file can be used by itself.

``DESCRIPTIONS -> TUNITn, TCOMMn; LINES -> LINE01 ...; the table of the documentation``
"""

import io
import warnings

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning

from ..gas import LINE_WAVELENGTH, LINES

__all__ = ["ANGLES", "BANDS", "DESCRIPTIONS", "WISHES", "in_degrees", "truth_hdu"]

BANDS = "griz"

# name | unit; "-" for numbers without one, logarithms, labels and names | what it is
_GALAXIES = """
galaxy | - | number of the galaxy within the seed
log_mass | - | log10 of stellar mass formed, Msun
log_sfr | - | log10 of star formation rate over the last 1e8 yr, Msun/yr
log_mass_formed | - | log10 of stellar mass formed with all companions, Msun
log_sfr_total | - | log10 of star formation rate over 1e8 yr with all companions, Msun/yr
burst | - | log10 of star formation of the last 1e7 yr over that of 1e8 yr
ionising | - | log10 of share of ionising photons that make lines
recent | - | log10 of star formation 0.3-1 Gyr ago relative to now
quenched | - | label: passive
post_starburst | - | label: star formation stopped within the last Gyr
green | - | label: 0.7 dex below the main sequence
redshift | - | of the centre of the galaxy
re | arcsec | half-light semi-major axis of the disc or spheroid as drawn
re_kpc | kpc | the same
spheroid | - | label: no disc
bulge_fraction | - | share of the mass in the bulge
bulge_n | - | Sersic index of the bulge
bulge_re | arcsec | effective radius of the bulge
inclination | deg | of the disc, 0 is face-on
bulge_q | - | axis ratio of the bulge
pa | deg | position angle of the receding major axis, from North through East, 0-360
east | arcsec | offset of the galaxy from the middle of its image, to the East
north | arcsec | the same, to the North
arms | - | number of spiral arms
pitch | deg | pitch angle of the arms, the sign is their sense
arm_phase | deg | phase of the arms
arm_old | - | contrast of the arms in old stars
arm_young | - | contrast of the arms in star formation
arm_sharp | - | how narrow the arms are
bar | - | share of the disc's mass in a bar
bar_length | - | half length of the bar over re
bar_angle | deg | of the bar in the plane, from the receding major axis
ring | - | label: star formation in a ring
ring_radius | - | of the ring over re
ring_width | - | sigma of the ring over re
sf_scale | - | scale length of star formation over that of old stars
hole | - | depth of a central hole in star formation, 0-1
hole_radius | - | of the hole over re
lopsided | - | amplitude of lopsided star formation
lopsided_angle | deg | its direction in the plane, from the receding major axis
texture | - | scatter of star formation, dex
phase_texture | - | scatter of line emission at given star formation, dex
clumps | - | number of HII regions drawn
clump_fraction | - | share of star formation in clumps
clump_slope | - | dN/dL ~ L^-slope of the clumps
gas_z_inner | - | log10 of gas metallicity over solar, centre
gas_z_outer | - | the same at 3 re
star_z | - | log10 of metallicity of disc stars over solar, centre
bulge_z | - | log10 of metallicity of bulge stars over solar
star_gradient | - | of log10 metallicity of stars, dex per re
log_u | - | log10 of ionisation parameter of HII regions
log_u_clump | - | the same of clumps
xi | - | dust-to-metal ratio
n_over_o | - | offset of log10 N/O from the tables, dex
oxygen_one | - | offset of log10 [O I], dex
neon | - | offset of log10 [Ne III], dex
helium | - | offset of log10 He I, dex
disc_age | - | log10 of age of inner disc stars, yr
outer_age | - | log10 of age of outer disc stars, yr
bulge_age | - | log10 of age of bulge stars, yr
ebv | mag | E(B-V) of starlight behind the mean dust of the galaxy's centre; not of the Milky Way
gas_dust | - | E(B-V) of gas over that of stars
dust_scale | - | scale length of the dust over re
lane | - | strength of dust lanes
diffuse | - | share of H-alpha from diffuse gas
diffuse_o3 | - | log10 [O III]/H-beta of diffuse gas relative to the usual, dex
diffuse_low | - | log10 of low-ionisation lines of diffuse gas relative to the usual, dex
agn | - | label: active nucleus
log_agn | - | log10 of H-alpha luminosity of the active nucleus if there is one, erg/s
cone_share | - | share of the nucleus' light in the cones
cone_length | - | length of the cones over re
cone_angle | deg | direction of the cones on the sky, from the receding major axis
cone_half | deg | half opening angle of the cones
outflow | - | label: galactic wind
outflow_share | - | share of H-alpha in the wind if there is one
agn_log_u | - | log10 of ionisation parameter of the narrow-line region
agn_alpha | - | spectral index of the nucleus
shock_speed | km / s | of shocks in the wind
shock_share | - | share of shocks in the light of the wind
old_ew | Angstrom | H-alpha equivalent width from old stars
old_o3 | - | log10 [O III]/H-beta of gas near old stars
old_n2 | - | log10 [N II]/H-alpha of gas near old stars
decoupled | - | label: gas that turns about another axis
decoupled_ring | - | whether that gas would be in a ring
decoupled_share | - | its share of H-alpha
decoupled_ew | Angstrom | its H-alpha equivalent width in passive galaxies
decoupled_angle | deg | direction of its patch, from the receding major axis
decoupled_radius | - | its radius over re
break_radius | - | where the disc's profile breaks over re
break_ratio | - | outer over inner slope
thickness | - | of the old disc over its length
axis_ratio | - | apparent axis ratio of old stars
thin_ratio | - | apparent axis ratio of gas and new stars
warp | - | amplitude of the warp
flocculent | - | label: many short arms
merger | - | label: with a companion and tidal debris
companion_ratio | - | mass of the companion over the galaxy's, 0 for none
companion_x | - | offset of the companion along the receding major axis over re
companion_y | - | the same along the minor axis
companion_size | - | of the companion over re
companion_q | - | its axis ratio
companion_pa | deg | its direction on the sky, from the receding major axis
companion_young | - | its star formation over the galaxy's
companion_velocity | km / s | relative to the galaxy
debris | - | share of the mass in tails or shells
tail_pitch | deg | pitch angle of the tails
tail_angle | deg | direction of the first tail in the plane
tail_balance | - | second tail over first
v_max | km / s | rotation speed far out, in the plane
v_turn | - | turnover radius of the rotation curve over re
sigma_gas | km / s | dispersion of disc gas
sigma_star | km / s | central dispersion of stars
far_side | - | 1 if the +minor axis is the far side, else -1
streaming | km / s | amplitude of non-circular motion
lag | - | of diffuse gas behind the disc's rotation, a share
broader | - | dispersion of diffuse gas over that of disc gas
sigma_narrow | km / s | dispersion of the narrow-line region
wind_speed | km / s | of the wind
wind_sigma | km / s | dispersion of the wind
cone_cos | - | cosine between the cones and the line of sight
decoupled_pa | deg | of the decoupled gas' own receding axis, from the galaxy's
decoupled_tilt | - | sine of its inclination
decoupled_speed | - | its rotation over that of the disc
edge_on | - | label: inclination above 75 degrees
off_centre_hii | - | label: star formation in few bright clumps
neighbour | - | label: another object lies on the line of sight nearby
neighbour_is_star | - | whether it is a star
neighbour_east | arcsec | its offset from the middle of the image, to the East
neighbour_north | arcsec | the same, to the North
neighbour_r | mag | its r magnitude, AB
neighbour_z | - | its redshift
neighbour_size | arcsec | its size
neighbour_age | - | log10 of its age, yr
neighbour_metal | - | log10 of its metallicity over solar
old_lum | solLum / solMass | H-alpha per mass of old stars
slot | - | number of the galaxy within the survey, from 0; its candidates are galaxies 128 slot to 128 slot + 127
wish_z | - | redshift that the slot wished for
wish_r | mag | r magnitude that the slot wished for, AB, without the dust of the Milky Way
wish_logm | - | log10 of the mass in stars now that the slot wished for, Msun
wish_re | arcsec | half-light radius in r that the slot wished for
sample | - | MaNGA's sample that the slot stands for: primary (for Primary+) or secondary
"""
#: Columns of GALAXIES that surveys by slots have: of DESI z and r, of MaNGA the others.
WISHES = ("slot", "wish_z", "wish_r", "wish_logm", "wish_re", "sample")
_FIBERS = """
targetid | - | as in the coadds
target_ra | deg | of the target
target_dec | deg | of the target
fiber_ra | deg | where the fibre was, mean of the exposures
fiber_dec | deg | the same
std_fiber_ra | arcsec | scatter of the exposures
std_fiber_dec | arcsec | the same
exptime | s | effective, under dark sky
n_exposures | - | number of exposures
fiberstatus | - | bits of desispec's fibermask; 0 is good
objtype | - | TGT or SKY
morphtype | - | PSF, REX, EXP or DEV; blank for sky
shape_r | arcsec | half-light radius, as SHAPE_R
shape_e1 | - | ellipticity component, as SHAPE_E1
shape_e2 | - | the same, as SHAPE_E2
flux_g | nanomaggy | total flux in g, with the dust of the Milky Way
flux_r | nanomaggy | the same in r
flux_z | nanomaggy | the same in z
flux_ivar_g | 1 / nanomaggy2 | inverse variance of such a flux in the image
flux_ivar_r | 1 / nanomaggy2 | the same in r
flux_ivar_z | 1 / nanomaggy2 | the same in z
fiberflux_g | nanomaggy | in 1.5 arcsec at 1 arcsec seeing, with the dust of the Milky Way
fiberflux_r | nanomaggy | the same in r
fiberflux_z | nanomaggy | the same in z
psf_to_fiber_specflux | - | factor from calibrated flux to flux in the fibre at 1 arcsec seeing
photsys | - | N where the images are of BASS and MzLS, else S; fluxes are those of DECam's bands in both
ebv | mag | E(B-V) of the Milky Way, SFD scale
seeing | arcsec | FWHM at 6500 A, mean of the exposures
kind | - | why the fibre is there: central, shredded, peculiar velocity, repeat, sky
galaxy | - | number of the galaxy within the seed, as in GALAXIES
east | arcsec | of the fibre's target from the middle of the image, to the East
north | arcsec | the same, to the North
z | - | what the fitter says, as Z of redrock
zerr | - | its error
zwarn | - | its warnings; 4 is a small DELTACHI2
deltachi2 | - | as DELTACHI2 of redrock
z_true | - | redshift of the gas in the fibre
objid | - | as BRICK_OBJID
healpix | - | pixel of the coadd, nested, nside 64
true_line_flux | 10**-17 erg/(s cm2) | emergent line fluxes in the fibre, before the Milky Way; LINE01 ...
true_line_ew | Angstrom | their equivalent widths, rest frame, emission positive; LINE01 ...
true_velocity | km / s | of gas in the fibre, relative to the galaxy
true_sigma | km / s | dispersion of gas in the fibre, without the instrument's
true_sigma_star | km / s | dispersion of stars in the fibre
true_stellar_limited | - | whether that is below 70 km/s, the templates' own: the spectrum shows broader stars
true_band | nanomaggy | flux in the fibre before the Milky Way; BAND1 ...
"""
_CUBES = """
galaxy | - | number of the galaxy within the seed, as in GALAXIES
plate | - | 900000 + seed
ifudsgn | - | 100 times the fibres of the bundle, plus 1
simname | - | part of the names of its files
srvymode | - | simulated
versdrp3 | - | sim
objra | deg | of the galaxy's centre
objdec | deg | the same
ifura | deg | of the bundle's middle
ifudec | deg | the same
ebvgal | mag | E(B-V) of the Milky Way, SFD scale
nexp | - | number of exposures
exptime | s | of all together
ifudesignsize | - | fibres of the bundle
ifutargetsize | - | the same
z | - | true redshift
nsa_z | - | the same
nsa_elpetro_ba | - | apparent axis ratio of old stars
nsa_elpetro_phi | deg | position angle of the major axis, from North through East, 0-180
nsa_elpetro_th50_r | arcsec | half-light semi-major axis in r, measured without noise
nsa_elpetro_mass | solMass | stellar mass formed
nsa_sersic_ba | - | as nsa_elpetro_ba
nsa_sersic_phi | deg | as nsa_elpetro_phi
nsa_sersic_th50 | arcsec | as nsa_elpetro_th50_r
gfwhm | arcsec | FWHM of the cube's PSF in g
rfwhm | arcsec | the same in r
ifwhm | arcsec | the same in i
zfwhm | arcsec | the same in z
stellar_limited | - | share of spaxels with stars below 70 km/s, the templates' own: the cube shows broader stars
"""


def _parsed(text):
    rows = (line.split(" | ") for line in text.strip().splitlines())
    return {name: (None if unit == "-" else unit, words) for name, unit, words in rows}


#: By extension and column: unit (None without one) and description.
DESCRIPTIONS = {"GALAXIES": _parsed(_GALAXIES), "FIBERS": _parsed(_FIBERS), "CUBES": _parsed(_CUBES)}
#: Columns of GALAXIES that are drawn in radians and written in degrees.
ANGLES = tuple(name for name, (unit, _) in DESCRIPTIONS["GALAXIES"].items() if unit == "deg" and name != "inclination")


def in_degrees(columns):
    """The same with all angles in degrees, and ``pa`` from North through East instead of from East through North.

    Parameters
    ----------
    columns : dict of str to ndarray
        As drawn: radians, but for the inclination.
    """
    out = dict(columns)
    for name in set(ANGLES) & set(columns):
        out[name] = np.degrees(columns[name]).astype(np.asarray(columns[name]).dtype)
    if "pa" in out:
        out["pa"] = np.mod(90 - out["pa"], 360)
    return out


def truth_hdu(name, columns):
    """An extension of ``truth_sim.fits`` with units and descriptions of its columns, and the names of lines and bands.

    Parameters
    ----------
    name : str
        "GALAXIES", "FIBERS" or "CUBES".
    columns : dict of str to ndarray

    Returns
    -------
    `~astropy.io.fits.BinTableHDU`

    Notes
    -----
    FITS has no nanomaggy: as TUNIT it would not be understood. Such columns have their unit where Astropy keeps what
    FITS cannot say, so that `~astropy.table.Table` and `~astropy.table.QTable` read it without a warning, and in
    brackets before the words of TCOMM for people and other programs.
    """
    known = DESCRIPTIONS[name]
    hdu = _table_hdu(columns, {key: unit for key, (unit, _) in known.items() if unit and "nanomaggy" in unit})
    hdu.name = name
    for i, column in enumerate(columns, start=1):
        unit, words = known.get(column, (None, None))
        if unit and "nanomaggy" in unit:
            words = f"[{unit}] {words}"
        elif unit:
            hdu.columns[i - 1].unit = unit
        if words:
            hdu.header[f"TCOMM{i}"] = words
    if name == "FIBERS":
        for i, line in enumerate(LINES, start=1):
            hdu.header[f"LINE{i:02d}"] = (line, f"rest vacuum {LINE_WAVELENGTH[line]:.2f} Angstrom")
        for i, band in enumerate(BANDS, start=1):
            hdu.header[f"BAND{i}"] = (band, "DECam")
    return hdu


def _table_hdu(columns, units):
    """A table whose columns in ``units``, which FITS has not, are quantities to Astropy."""
    table = QTable({key: u.Quantity(value, units[key]) if key in units else value for key, value in columns.items()})
    file = io.BytesIO()
    with warnings.catch_warnings():  # that FITS has no such unit, and only Astropy will read it
        warnings.simplefilter("ignore", AstropyUserWarning)
        table.write(file, format="fits")
    file.seek(0)
    with fits.open(file, memmap=False) as hdus:
        return hdus[1].copy()
