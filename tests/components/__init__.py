"""Tests of components/, imported as kerobust.components."""
