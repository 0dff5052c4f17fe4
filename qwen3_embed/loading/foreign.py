"""Files and folders of other formats, each refused with what it is and what to do."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import ModelFileError, ModelNotFoundError

__all__ = [
    "refuse_file",
    "refuse_folder_without_weights",
    "refuse_lfs_pointer",
    "refuse_other_format",
]

_SINGLE = "model.safetensors"
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_LFS = b"version https://git-lfs.github.com/spec/"
_SHARD = re.compile(r".+-[0-9]{5}-of-[0-9]{5}\.safetensors")
_OTHER_RUNTIMES = {
    ".onnx": "ONNX Runtime",
    ".xml": "OpenVINO",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".gguf": "llama.cpp",
}


def refuse_lfs_pointer(path: Path) -> None:
    """Refuses a file that Git left in place of a large one.

    Raises
    ------
    ModelFileError
        The file is a Git LFS pointer.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(_LFS))
    except OSError:
        return  # whoever needs the file says what is wrong with it
    if start == _LFS:
        raise ModelFileError(
            f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in the clone, "
            f"or download the file"
        )


def refuse_file(model: str) -> None:
    """Refuses a path to one file, where a folder or a name is expected.

    Raises
    ------
    ModelFileError
        The path names a file of a kind that is known.
    """
    path = Path(model).expanduser()
    if _is_gguf_repository(model):
        raise ModelFileError(
            f"{model} holds GGUF files, of which one of type Q8_0 can be opened by its path: "
            f"download it, or pass the name of the original model"
        )
    if path.is_file():
        raise ModelFileError(
            f"{model} is a file: pass the folder that holds config.json, tokenizer.json and "
            f"{_SINGLE}"
        )


def _is_gguf_repository(model: str) -> bool:
    return model.count("/") == 1 and model.lower().endswith("-gguf") and not Path(model).exists()


def refuse_folder_without_weights(folder: Path) -> None:
    """Says what a folder holds instead of weights in safetensors.

    Raises
    ------
    ModelFileError
        Weights of another format, or under another name.
    ModelNotFoundError
        No weights at all.
    """
    names = sorted(os.listdir(folder))
    pickled = [name for name in names if name.endswith(_PICKLED)]
    if pickled:
        raise ModelFileError(
            f"{str(folder)!r} holds its weights as {pickled[0]}, a pickle, which can run code: "
            f"expected {_SINGLE}; convert it with the `safetensors` package"
        )
    shards = [name for name in names if _SHARD.fullmatch(name)]
    if shards:
        raise ModelNotFoundError(
            f"{str(folder)!r} holds {shards[0]} but not {_SINGLE}.index.json, which lists the "
            f"shards: fetch it too"
        )
    renamed = [name for name in names if name.endswith(".safetensors") and "adapter" not in name]
    if renamed:
        raise ModelFileError(
            f"{str(folder)!r} holds its weights as {renamed[0]}: rename it to {_SINGLE}"
        )
    refuse_other_format(folder)
    raise ModelNotFoundError(
        f"no weights in {str(folder)!r}; expected {_SINGLE}, or {_SINGLE}.index.json and its shards"
    )


def refuse_other_format(folder: Path) -> None:
    """Refuses a folder with weights for another runtime.

    Raises
    ------
    ModelFileError
        There are such weights.
    """
    names = _list(folder)
    for inner in ("onnx", "openvino"):
        names += [f"{inner}/{name}" for name in _list(folder / inner)]
    for name in names:
        runtime = _OTHER_RUNTIMES.get(Path(name).suffix)
        if runtime is not None:
            raise ModelFileError(
                f"{str(folder)!r} holds its weights as {name}, for {runtime}, which is not "
                f"supported: expected config.json, tokenizer.json and {_SINGLE}, as the original "
                f"model has them"
            )


def _list(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []
