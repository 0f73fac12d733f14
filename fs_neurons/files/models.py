"""Keras models on disk: loading that runs no code from the file, saving that never leaves half a file.

model = load_model("model.keras")
save_model(snn, "snn.keras")
"""

from __future__ import annotations

import os
import pathlib
import tempfile
import zipfile

import keras

SUFFIX = ".keras"


def load_model(path: str | os.PathLike[str], *, allow_code: bool = False) -> keras.Model:
    """Loads a .keras file in Keras' safe mode.

    Args:
        path: of the file. Other formats (HDF5, SavedModel, pickles) are refused.
        allow_code: also loads Lambda layers, whose Python code is stored in the file and then runs on
            this machine. Only for files that you trust.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a .keras file, damaged, or it holds code and `allow_code` is not set.
    """
    path = pathlib.Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: give a {SUFFIX} file, made by model.save('name{SUFFIX}')")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a {SUFFIX} file, or damaged")
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=not allow_code)
    except Exception as error:  # whatever a damaged or hostile file makes Keras raise
        raise ValueError(f"{path}: {_reason(error, allow_code)}") from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"{path}: holds a {type(model).__name__}, not a keras.Model")
    return model


def save_model(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Writes a .keras file, atomically. Missing folders are made.

    Raises:
        ValueError: the path doesn't end in .keras.
    """
    path = pathlib.Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: the name of a saved model must end in {SUFFIX}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = pathlib.Path(folder) / path.name
        model.save(temporary)
        os.replace(temporary, path)


def _reason(error: Exception, allow_code: bool) -> str:
    text = " ".join(str(error).split())
    if "safe_mode" in text and not allow_code:
        return (
            "holds Python code (a Lambda layer), which was not run. If you trust the file:"
            " load_model(path, allow_code=True)"
        )
    # Keras puts the whole configuration before what went wrong.
    text = text.rpartition("Exception encountered: ")[2]
    return f"can't be loaded ({type(error).__name__}: {text[:300]})"
