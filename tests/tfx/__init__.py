"""Tests of components.tfx; `make test-tfx` runs them in an environment of their own."""
