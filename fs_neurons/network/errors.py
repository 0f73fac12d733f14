"""What goes wrong with a model."""

from __future__ import annotations


class ConversionError(ValueError):
    """A model that can't be converted; the message names the layers and says what to do."""
