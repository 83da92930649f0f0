"""Embedded data: generated from a seed, or from what the interpreter and Babel already hold."""
