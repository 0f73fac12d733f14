# Keras has no types. Those that mypy needs: of the classes that fs_neurons subclasses or makes; all else is Any.

from collections.abc import Callable
from typing import Any, ClassVar

from keras.layers import Layer as Layer

class Model(Layer):
    export: ClassVar[Callable[..., Any]]

class Sequential(Model): ...

def __getattr__(name: str) -> Any: ...
