"""Stands in for the C extension where it was not built.

Python prefers `_core.abi3.so` in this folder, so this file is read only where that is missing.
"""

raise ImportError(
    "qwen3_embed is imported from its sources, whose C extension is not built: `pip install .` "
    "builds it elsewhere. Run `pip install -e .`, or start Python in another folder"
)
