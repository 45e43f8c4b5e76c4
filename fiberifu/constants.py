"""Physical constants that modules share; plain floats, so that what runs without Astropy can import them."""

__all__ = ["AB_NANOMAGGY", "C_KMS"]

C_KMS = 299792.458
"""Speed of light [km/s], exact (CGPM 1983)."""

AB_NANOMAGGY = 3.631e-29 * 2.99792458e18 * 1e17
"""Flux density of 1 nanomaggy x wavelength^2 [1e-17 erg/s/cm2/A x A2] (AB system, Oke & Gunn 1983, ApJ 266, 713)."""
