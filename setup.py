"""Packaging; everything that is imported is declared here.

REPOSITORY_URL=https://github.com/OWNER/fs_neurons python setup.py sdist bdist_wheel
"""

import os
import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "fs_neurons/__init__.py").read_text())[1]

# Where the sources are published; the page of a package index shows pictures by absolute addresses only.
REPOSITORY_URL = os.environ.get("REPOSITORY_URL", "").rstrip("/")


def for_package_index(text: str) -> str:
    """Markdown whose relative links and pictures are absolute; plain text and nothing where there is no address."""

    def absolute(found: re.Match[str]) -> str:
        picture, label, target = found.groups()
        if "://" in target:
            return found[0]
        if not REPOSITORY_URL:
            return "" if picture else label
        return f"{picture}[{label}]({REPOSITORY_URL}/{'raw' if picture else 'blob'}/main/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)]+)\)", absolute, text)


setup(
    name="fs_neurons",
    version=VERSION,
    description="Few-spikes neurons: turns trained Keras networks into spiking ones",
    url=REPOSITORY_URL or None,
    long_description=for_package_index((ROOT / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["spiking neural networks", "neuromorphic", "conversion", "Keras", "few spikes"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    entry_points={"console_scripts": ["fs-neurons = fs_neurons.cli:run"]},
    packages=[*find_packages(include=["fs_neurons", "fs_neurons.*"]), "fs_neurons.params"],
    # The folder params/ of the source tree becomes fs_neurons/params/ of an installed package.
    package_dir={"fs_neurons.params": "params"},
    package_data={
        "fs_neurons": ["py.typed"],
        "fs_neurons.params": ["*.json", "*/*.json", "*/*.weights.h5", "*/*.keras"],
    },
    install_requires=[
        "tensorflow>=2.18",
        "keras>=3.10",
        "numpy>=1.26",
        "numba>=0.60",
        "scipy>=1.13",
        "absl-py>=2.0",
        "matplotlib>=3.8",
        "pillow>=10.0",
        "tabulate>=0.9",
        "tensorflow-datasets>=4.9.7",
        "importlib_resources>=6.0",  # tensorflow-datasets imports it without declaring it
        "scikit-learn>=1.4",  # ships the digits
    ],
    extras_require={
        "test": [
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "setuptools>=70",
            "jinja2>=3.1",
            "nbclient>=0.10",
            "ipykernel>=6.29",
            "nir>=1.0.8",
            "wheel",
        ],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.27", "ruff>=0.9"],
        "report": ["jinja2>=3.1"],
        "export": ["onnx>=1.15", "tf2onnx>=1.16", "onnxruntime>=1.17", "ai-edge-litert>=1.2"],
        "nir": ["nir>=1.0.8"],
        "jax": ["jax>=0.4.30"],
        "torch": ["torch>=2.6"],
        "lint": ["ruff>=0.9", "mypy>=1.11", "import-linter>=2.0"],
    },
)
