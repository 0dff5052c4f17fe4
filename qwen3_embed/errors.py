"""Everything that can go wrong, by name.

Each class also derives from the built-in exception that code without knowledge of
this package would catch.
"""

from __future__ import annotations

__all__ = [
    "DeviceError",
    "DeviceMemoryError",
    "InputTooLongError",
    "ModelFileError",
    "ModelNotFoundError",
    "NonFiniteError",
    "QwenEmbedError",
    "TruncationWarning",
]


class QwenEmbedError(Exception):
    """Base of every error that this package names."""


class ModelNotFoundError(QwenEmbedError, FileNotFoundError):
    """No such model folder or hub repository, or no network and nothing in the cache."""


class ModelFileError(QwenEmbedError, ValueError):
    """A model's file is damaged, incomplete, or describes a model this engine can't compute."""


class InputTooLongError(QwenEmbedError, ValueError):
    """A text has more tokens than `max_length`, and `on_long="error"` was asked for."""


class DeviceError(QwenEmbedError, RuntimeError):
    """The device is missing, failed, or can't be used here (after a fork, say)."""


class DeviceMemoryError(DeviceError, MemoryError):
    """The device has too little free memory; the message gives both figures."""


class NonFiniteError(QwenEmbedError, ArithmeticError):
    """A vector came out with NaN or infinity.

    Attributes
    ----------
    index : int
        Which text of the call.
    """

    index: int = -1


class TruncationWarning(UserWarning):
    """Texts were cut at `max_length`; one a call, naming the longest."""
