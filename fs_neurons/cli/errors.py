"""What a command ends with when it can't do what was asked, and messages in the words of the command line."""

from __future__ import annotations

import re
from typing import Any


def _calibrate(found: re.Match[str]) -> str:
    return "fs-neurons calibrate MODEL OUT.keras" + (f" --steps={found[1]}" if found[1] else "")


# What the package advises to pass in Python -> the flag.
_ADVICE = (
    (r"\bconvert\(model, calibration_data=\.\.\.(?:, steps=(\d+))?\)", _calibrate),
    (r"\bfs\.compare\(model, snn, images\)", "fs-neurons compare MODEL SNN"),
    (r"\bfs\.finetune\(", "in Python, fs.finetune("),
    (r"\bkeep and keep_layers\b", "--keep and --keep_layers"),
    (r"register one, fs\.register\(.+?\)\)\), or ", ""),
    (r"(?:fs\.)?\b(?:convert|load_model)\((?:model|path), (.+?)\)", r"\1"),
    (r'\bunsupported="(\w+)"', r"--unsupported=\1"),
    (r"\b(allow_code|fold_batch_norm|convert_outputs)=True", r"--\1"),
    (r"\brelu=(?:fs\.)?relu_parameters\(K, alpha\)", "--K and --alpha"),
    (r'\b(keep|keep_layers)=[(\[]"([\w/]+)",?[)\]]', r"--\1=\2"),
    (r"\bcalibration_data=\.\.\.", "fs-neurons calibrate"),
    (r"\bcalibration_data\b", "images (fs-neurons calibrate)"),
    (r"(?<!-)\b(data_dir|labels|target_spikes|spike_penalty|granularity|correction|quality|batch_size)\b"
     r"(?=( or .*)?(=| must|, not both))", r"--\1"),
    (r"(?<!-)\b(?!(?:K|alpha|name|set|labels)=)(\w+)=\.\.\.", r"--set=\1=SET"),
)  # fmt: skip


class UsageError(Exception):
    """Wrong arguments; the message says what is expected."""


class CommandError(Exception):
    """A file, a model or a value that can't be used; the message says which, and what to do."""


def one_line(message: Any) -> str:
    """A message without line breaks."""
    return " ".join(str(message).split())


def with_flags(message: str) -> str:
    """A message of the package with flags in place of Python arguments."""
    for pattern, flag in _ADVICE:
        message = re.sub(pattern, flag, message)
    return message
