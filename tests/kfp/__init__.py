"""Tests of components.kfp; `make test-kfp` runs them."""
