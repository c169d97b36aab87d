"""Tests of `kerobust.training`."""
