"""Emission lines as the network knows them: free amplitudes, tied partners, vacuum wavelengths.

Wavelengths in vacuum angstrom from the NIST Atomic Spectra Database, as tabulated by the MaNGA DAP
(Belfiore et al. 2019, AJ 158, 160, table 1); the tied ratios 2.98 and 3.05 are those of Storey & Zeippen
(2000, MNRAS 312, 813).
"""

__all__ = ["AMPLITUDES", "LINES", "LINE_COMPONENTS", "LINE_WAVELENGTH"]

#: Vacuum wavelength of every line, angstrom, in order of wavelength.
LINE_WAVELENGTH = {
    "O2_3726": 3727.092,
    "O2_3729": 3729.875,
    "Ne3_3869": 3869.86,
    "Hd": 4102.892,
    "Hg": 4341.692,
    "Hb": 4862.691,
    "O3_4959": 4960.295,
    "O3_5007": 5008.240,
    "He1_5876": 5877.249,
    "O1_6300": 6302.046,
    "N2_6548": 6549.861,
    "Ha": 6564.632,
    "N2_6583": 6585.273,
    "S2_6716": 6718.295,
    "S2_6731": 6732.674,
}
LINES = tuple(LINE_WAVELENGTH)

#: Line -> (free amplitude it follows, flux ratio to it).
LINE_COMPONENTS = {
    **{name: (name, 1.0) for name in LINES},
    "O3_4959": ("O3_5007", 1 / 2.98),
    "N2_6548": ("N2_6583", 1 / 3.05),
}
#: The free amplitudes, in the order of the network's coefficients.
AMPLITUDES = tuple(name for name in LINES if LINE_COMPONENTS[name][0] == name)
