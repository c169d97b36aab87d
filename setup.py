"""Builds and installs kerobust; settings of the tools stand in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent


def version() -> str:
    """Returns `__version__` of the package without importing it."""
    text = (ROOT / "kerobust" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


def packages() -> list[str]:
    """Returns all packages; `components/` is installed as `kerobust.components`."""
    parts = find_packages(include=["components", "components.*"])
    return [
        *find_packages(include=["kerobust", "kerobust.*"]),
        *(f"kerobust.{name}" for name in parts),
    ]


def long_description() -> str:
    """Returns README.md, or nothing in a tree that has none."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


setup(
    name="kerobust",
    version=version(),
    description="Adversarially robust vision encoders in tf.keras.",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.12",
    packages=packages(),
    package_dir={"kerobust.components": "components"},
    package_data={"kerobust": ["py.typed"], "kerobust.data": ["*.npz"]},
    # The upper bounds are not caution: see CONTRIBUTING.md, "Pins".
    install_requires=[
        "tensorflow>=2.15,<2.16",
        "keras-cv==0.9.*",
        "tensorflow-addons==0.23.*",
        "tensorflow-datasets>=4.9,<5",
        "tensorflow-metadata<1.18",
        "importlib-resources",  # TFDS imports it without asking for it
        "tensorboard>=2.15,<2.16",
        "absl-py",
        "safetensors",
        "pillow",
        "matplotlib",
        "tabulate",
        "numpy<2",
        "setuptools<81",
    ],
    extras_require={
        "pipelines": ["ml-metadata==1.17.1"],
        "kfp": ["kfp==2.13.0"],
        "tfx": ['ml-pipelines-sdk==1.17.3; python_version < "3.11"'],
        "bench": [
            "adversarial-robustness-toolbox==1.20.1",
            "cleverhans==4.0.0",
            "foolbox==3.3.4",
            # CleverHans imports it; later releases want a later TensorFlow.
            "tensorflow-probability==0.23.0",
        ],
        "dev": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "types-tabulate",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
