"""Saved networks load after `import fs_neurons` alone, which imports neither Keras nor a backend by itself.

Keras finds the layers of a saved network among those that were registered, by importing `fs_neurons.layers`.
That takes seconds, as it starts TensorFlow; a program that only prints its help should not wait for it. So
the layers are imported as soon as Keras is: at once where it is there already, else right behind it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

LAYERS = "fs_neurons.layers"
# What does without Keras.
LIGHT = ("cli", "files", "registration", "__main__")


def register_with_keras() -> None:
    """Sees to it that FS layers are registered wherever Keras is imported. Does nothing the second time."""
    if "keras" in sys.modules:
        importlib.import_module(LAYERS)
    elif not any(isinstance(finder, _Registrar) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Registrar())


class _Registrar(importlib.abc.MetaPathFinder):
    """Waits for Keras, or for a part of this package that needs it, and then imports the layers.

    Not within such a part but behind it: the layers may need what it is about to define.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, part = fullname.partition(".")
        if fullname != "keras" and (
            package != "fs_neurons" or not part or part.partition(".")[0] in LIGHT
        ):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenLayers(spec.loader, self)
        return spec


class _ThenLayers(importlib.abc.Loader):
    """Loads a module as another loader does, and imports the layers.

    Only this ends the waiting: TensorFlow looks for Keras long before it loads it.
    """

    def __init__(self, loader: importlib.abc.Loader, registrar: _Registrar):
        self.loader, self.registrar = loader, registrar

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # for who only asks about a module

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader  # who asks the module sees its own loader
        module.__loader__ = self.loader
        # What this module imports is none of the registrar's business.
        if self.registrar in sys.meta_path:
            sys.meta_path.remove(self.registrar)
        self.loader.exec_module(module)
        importlib.import_module(LAYERS)
