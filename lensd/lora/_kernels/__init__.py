"""Compiled loops over weights. Where they are not compiled, Python functions do the same."""
