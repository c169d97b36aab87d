"""Measurements behind the claims in README and docs; not part of the package."""
