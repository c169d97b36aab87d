"""The digits experiments: tuning, five seeds, the results page."""
