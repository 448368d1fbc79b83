"""Fetches binaries of the official releases, with their checksums.

Kubernetes' come one by one from its release site, etcd's in an archive from its own releases. A
machine that can't reach them must notice within seconds, because there is another way (`builds`). A
checksum that differs is never passed over. Nothing appears in the folder before it was verified.

The addresses may be replaced by mirrors: ``WHIPSTAFF_KUBERNETES_RELEASES`` and
``WHIPSTAFF_ETCD_RELEASES``.
"""

import hashlib
import http.client
import pathlib
import shutil
import tarfile
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence

from whipstaff.runtime import errors

ETCD_VERSION = "v3.6.8"  # whose client this Kubernetes was built with
_KUBERNETES = "https://dl.k8s.io/release"
_ETCD = "https://github.com/etcd-io/etcd/releases/download"
_PATIENCE = 5.0  # seconds for a first answer, names being looked up included
_STALLED = 30.0
_CHUNK = 1 << 18

Report = Callable[[str], None]


class UnavailableError(Exception):
    """The release can't be reached, or isn't there."""


def fetch(
    names: Sequence[str],
    version: str,
    target: str,
    folder: pathlib.Path,
    *,
    environ: Mapping[str, str],
    report: Report,
) -> None:
    """Put the binaries ``names`` of a Kubernetes version for ``target`` into ``folder``.

    Raises:
        UnavailableError: the site can't be reached or doesn't have them.
        StartupError: what came isn't what its checksum promises.
    """
    system, _, architecture = target.partition("-")
    kubernetes = environ.get("WHIPSTAFF_KUBERNETES_RELEASES", _KUBERNETES).rstrip("/")
    etcd = environ.get("WHIPSTAFF_ETCD_RELEASES", _ETCD).rstrip("/")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
        scratch = pathlib.Path(temporary)
        for name in names:
            if name == "etcd":
                _fetch_etcd(f"{etcd}/{ETCD_VERSION}", target, scratch, report)
            else:
                url = f"{kubernetes}/{version}/bin/{system}/{architecture}/{name}"
                # The site answers with the bare digest, sha256sum with digest and name.
                digest = _small(f"{url}.sha256").split()
                _fetch_file(url, scratch / name, digest[0] if digest else "", report)
        for name in names:
            (scratch / name).chmod(0o755)
            (scratch / name).replace(folder / name)


def _fetch_etcd(base: str, target: str, scratch: pathlib.Path, report: Report) -> None:
    stem = f"etcd-{ETCD_VERSION}-{target}"
    archive = f"{stem}.tar.gz"
    lines = [line.split(maxsplit=1) for line in _small(f"{base}/SHA256SUMS").splitlines()]
    sums = {name: digest for digest, name in lines}
    if archive not in sums:
        raise UnavailableError(f"{base} has no {archive}")
    _fetch_file(f"{base}/{archive}", scratch / archive, sums[archive], report)
    with tarfile.open(scratch / archive) as contents:
        member = contents.extractfile(f"{stem}/etcd")
        assert member is not None
        with member, (scratch / "etcd").open("wb") as file:
            shutil.copyfileobj(member, file)


def _fetch_file(url: str, path: pathlib.Path, digest: str, report: Report) -> None:
    found = hashlib.sha256()
    try:
        with _open(url, _STALLED) as response, path.open("wb") as file:
            total = int(response.headers.get("Content-Length") or 0)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                found.update(chunk)
                report(f"fetching {path.name}: {_progress(file.tell(), total)}")
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"{url}: {error}") from None
    if found.hexdigest() != digest.lower():
        raise errors.StartupError(
            f"{url}: has SHA-256 {found.hexdigest()}, and its release promises {digest}"
        )


def _small(url: str) -> str:
    """A short text; looking a name up has no time-out of its own, so a thread is left behind."""
    answer: list[str | Exception] = []

    def ask() -> None:
        try:
            with _open(url, _PATIENCE) as response:
                answer.append(response.read(1 << 20).decode())
        except (OSError, http.client.HTTPException, ValueError, UnavailableError) as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if not answer:
        raise UnavailableError(f"{url}: no answer within {_PATIENCE:g} s")
    if isinstance(answer[0], Exception):
        raise UnavailableError(f"{url}: {answer[0]}")
    return answer[0]


def _open(url: str, timeout: float) -> http.client.HTTPResponse:
    """Open a web address, and nothing else that a mirror's address may name."""
    if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
        raise UnavailableError(f"{url}: isn't a web address")
    response: http.client.HTTPResponse = urllib.request.urlopen(url, timeout=timeout)  # noqa: S310 (checked above)
    return response


def _progress(done: int, total: int) -> str:
    megabytes = f"{done / 1e6:.0f} MB"
    return f"{100 * done // total} % of {total / 1e6:.0f} MB" if total else megabytes
