"""Debian packages unpacked into the cache, for what goes into container images.

Nothing is installed: apt resolves the packages as if on an empty machine, so that everything they
need comes along, and keeps its own lists in the cache when the machine has none. No maintainer
script runs; recipes make up for what those would have done.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

from whipstaff.cluster import archives, layout
from whipstaff.runtime import errors

Report = Callable[[str], None]
_OMITTED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian")


def unpacked(
    names: Sequence[str],
    environ: Mapping[str, str],
    report: Report = lambda _: None,
    *,
    alone: bool = False,
) -> pathlib.Path:
    """A folder with the files of packages and, unless ``alone``, of all that they depend on.

    Raises:
        StartupError: there is no apt, or it can't get them.
    """
    words = "+".join(sorted(names))
    digest = hashlib.sha256(f"{words} {alone}".encode()).hexdigest()[:12]
    cache = layout.cache_dir(environ) / "packages"
    folder = cache / f"{min(names)}-{digest}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    report(f"fetching the packages {', '.join(names)}")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as temporary:
        scratch = pathlib.Path(temporary)
        contents = scratch / "contents"
        try:
            for archive in _fetch(names, scratch, cache / "lists", environ, alone=alone):
                _run(["dpkg-deb", "--extract", str(archive), str(contents)], scratch, environ)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise errors.StartupError(
                f"the packages {', '.join(names)} can't be fetched: {said.strip()}"
            ) from None
        if not folder.is_dir():
            contents.rename(folder)
    return folder


def _fetch(
    names: Sequence[str],
    scratch: pathlib.Path,
    lists: pathlib.Path,
    environ: Mapping[str, str],
    *,
    alone: bool,
) -> list[pathlib.Path]:
    """Download; with lists of our own where the machine's know no such packages."""
    try:
        return _download(names, scratch, (), environ, alone=alone)
    except subprocess.CalledProcessError:
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        options = ("-o", f"Dir::State::lists={lists}")
        _run(["apt-get", *_common(scratch), *options, "update"], scratch, environ)
        return _download(names, scratch, options, environ, alone=alone)


def _download(
    names: Sequence[str],
    scratch: pathlib.Path,
    options: Sequence[str],
    environ: Mapping[str, str],
    *,
    alone: bool,
) -> list[pathlib.Path]:
    if alone:
        _run(["apt-get", *_common(scratch), *options, "download", *names], scratch, environ)
        return sorted(scratch.glob("*.deb"))
    install = ("--yes", "--no-install-recommends", "--download-only", "install", *names)
    _run(["apt-get", *_common(scratch), *options, *install], scratch, environ)
    return sorted((scratch / "archives").glob("*.deb"))


def _common(scratch: pathlib.Path) -> Sequence[str]:
    """Options that keep apt from knowing or touching what is installed."""
    (scratch / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    status = scratch / "status"
    status.touch()
    values = {
        "Dir::State::status": status,
        "Dir::Cache": scratch,
        "Dir::Cache::archives": scratch / "archives",
        "Debug::NoLocking": "true",
        "APT::Sandbox::User": "root",  # else it may not write into the scratch folder
    }
    return [word for name, value in values.items() for word in ("-o", f"{name}={value}")]


def _run(command: Sequence[str], folder: pathlib.Path, environ: Mapping[str, str]) -> None:
    if shutil.which(command[0], path=environ.get("PATH")) is None:
        raise OSError(f"there is no {command[0]} here")
    variables = {**environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    subprocess.run(
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )


def entries(folder: pathlib.Path) -> Iterator[archives.Entry]:
    """All of an unpacked package's files for an image, documentation excepted."""
    for place, folders, names in os.walk(folder):
        here = pathlib.Path(place)
        relative = here.relative_to(folder)
        if str(relative) in _OMITTED:
            folders.clear()
            continue
        for name in [*folders, *names]:
            path = here / name
            target = str(relative / name)
            if path.is_symlink():
                yield archives.Entry(target, link=str(path.readlink()))
            elif path.is_file():
                yield archives.Entry(target, path, mode=path.stat().st_mode & 0o7777)
            elif path.is_dir() and target not in _OMITTED:
                yield archives.Entry(target, mode=path.stat().st_mode & 0o7777)
