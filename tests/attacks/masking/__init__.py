"""Tests of kerobust.attacks."""
