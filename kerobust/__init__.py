"""Adversarially robust vision encoders in tf.keras.

Importing this package imports nothing else: take what you need from its parts, for
example `from kerobust.attacks import PGD`.
"""

__version__ = "0.1.0"
