"""Compiled loops: arrays in, arrays out, and nothing else.

Each module holds one subject: `mixture` the E-step of Gaussian mixtures, `gaussian` the arguments it takes,
`moments`, `sampling` and `kmeans` what initialisation needs. Import the module that you use: every one of
them loads numba.
"""
