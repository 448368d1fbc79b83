"""Files replaced in one step, and secrets that only their owner reads."""

import os
import pathlib
import tempfile


def private_folder(path: pathlib.Path) -> pathlib.Path:
    """Make a folder (and those above it) that only its owner may enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write(path: pathlib.Path, contents: bytes, *, mode: int) -> None:
    """Replace ``path`` in one step; it has ``mode`` from its first byte on."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(contents)
        pathlib.Path(name).replace(path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
