"""The images that upstream's tests ask for, under exactly their names, made on this machine.

Answers to test/images in k8s.io/kubernetes and its list, test/utils/image/manifest.go. Upstream's
own are Alpine or Debian with tools; here busybox has the most of the tools and Debian's packages
the rest, in one layer that the images share.

Left out: what only those tests use that need storage servers, AppArmor or a stranger's registry.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
import tarfile
from typing import Any

from e2e.conformance import programs
from whipstaff.cluster import archives, binaries, images, packages, roots

_REGISTRY = "registry.k8s.io/e2e-test-images"
_TOOLS = (
    *("bash", "bind9-dnsutils", "bind9-host", "curl", "hostname", "iperf", "iproute2"),
    *("libc-bin", "netcat-openbsd", "util-linux"),
)
_USERS = "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n"
_GROUPS = "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"
_NGINX = b"""\
user nobody nobody;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 256; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout;
    server {
        listen 80;
        root /usr/share/nginx/html;
        index index.html;
    }
}
"""
_WELCOME = (
    b"<html><head><title>Welcome to nginx!</title></head><body>Welcome to nginx!</body></html>\n"
)
_PATH = {"PATH": roots.PATH}


@functools.cache
def _tools(workshop: images.Workshop) -> images.Layer:
    """A shell with busybox' small tools, and Debian's in the place of those of the same name."""
    folder = packages.unpacked(_TOOLS, workshop.environ, workshop.report)
    return [
        *roots.busybox(workshop.environ),
        *packages.entries(folder),
        # busybox' shell would rather run its own tools than those of the same name on PATH.
        archives.Entry("bin/sh", link="bash"),
        archives.Entry("bin/nc", link="nc.openbsd"),
        archives.Entry("etc/passwd", (roots.USERS + _USERS).encode()),
        archives.Entry("etc/group", (roots.GROUPS + _GROUPS).encode()),
        archives.Entry("etc/nsswitch.conf", b"hosts: files dns\n"),
        archives.Entry("home/user-defined-in-image", owner=(1000, 1000)),
        archives.Entry("tmp", mode=0o1777),
        archives.Entry("root", mode=0o700),
    ]


def _busybox(workshop: images.Workshop) -> list[images.Layer]:
    """Upstream's busybox, but for the shell that PATH finds.

    Debian's ash drops the variables that it has no names for, which upstream's passes on. The one
    at /bin/sh stays: a test knows the wording of its errors.
    """
    folder = packages.unpacked(("bash-static",), workshop.environ, workshop.report, alone=True)
    shell = archives.Entry("usr/local/bin/sh", folder / "bin" / "bash-static", mode=0o755)
    return [[*roots.busybox(workshop.environ), shell]]


@functools.cache
def _agnhost(workshop: images.Workshop) -> images.Layer:
    sources = programs.source(workshop, "test/images/agnhost")
    porter = sources / "porter"
    return [
        archives.Entry("agnhost", programs.agnhost(workshop), mode=0o755),
        archives.Entry("agnhost-2", link="agnhost"),
        archives.Entry("coredns", images.coredns(workshop), mode=0o755),
        archives.Entry("uploads"),
        archives.Entry("localhost.crt", porter / "localhost.crt", mode=0o644),
        archives.Entry("localhost.key", porter / "localhost.key", mode=0o644),
        archives.Entry("usr/local/bin/iperf", link="../../bin/iperf"),
        *_registry(images.archive("pause", environ=workshop.environ), "pause", "testing"),
    ]


def _registry(archive: pathlib.Path, name: str, tag: str) -> list[archives.Entry]:
    """What agnhost's registry serves: an image's documents and layers, by digest.

    Answers to test/images/agnhost/fakeregistryserver/prepare_registry.sh.
    """
    found: list[archives.Entry] = []

    def put(kind: str, digest: str, data: bytes) -> None:
        algorithm, _, value = digest.partition(":")
        path = f"var/registry/{name}/{kind}/{algorithm}/{value[:2]}/{value}/data"
        found.append(archives.Entry(path, data))

    with tarfile.open(archive) as tar:

        def blob(digest: str) -> bytes:
            member = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert member is not None
            return member.read()

        index = tar.extractfile("index.json")
        assert index is not None
        listed = index.read()
        for described in json.loads(listed)["manifests"]:
            manifest = blob(described["digest"])
            put("manifests", described["digest"], manifest)
            contents: dict[str, Any] = json.loads(manifest)
            for each in (contents["config"], *contents["layers"]):
                put("blobs", each["digest"], blob(each["digest"]))
    digest = f"sha256:{hashlib.sha256(listed).hexdigest()}"
    put("manifests", digest, listed)
    found.append(archives.Entry(f"var/registry/{name}/manifests/{tag}", f"{digest}\n".encode()))
    return found


def _pet(name: str, workshop: images.Workshop) -> list[images.Layer]:
    html = programs.source(workshop, f"test/images/{name}/html")
    files = [archives.Entry(path.name, path, mode=0o644) for path in sorted(html.iterdir())]
    return [_tools(workshop), _agnhost(workshop), files]


@functools.cache
def _nginx(workshop: images.Workshop) -> images.Layer:
    folder = packages.unpacked(("nginx-light",), workshop.environ, workshop.report)
    return [
        *packages.entries(folder),
        archives.Entry("etc/nginx/nginx.conf", _NGINX),
        archives.Entry("usr/share/nginx/html/index.html", _WELCOME),
        archives.Entry("var/lib/nginx", mode=0o777),
        archives.Entry("var/log/nginx", mode=0o777),
    ]


def _nonewprivs(workshop: images.Workshop) -> list[images.Layer]:
    program = programs.nonewprivs(workshop)
    return [_tools(workshop), [archives.Entry("usr/local/bin/nnp", program, mode=0o6755)]]


def _sample_apiserver(workshop: images.Workshop) -> list[images.Layer]:
    program = programs.sample_apiserver(workshop)
    return [_tools(workshop), [archives.Entry("sample-apiserver", program, mode=0o755)]]


def _etcd(workshop: images.Workshop) -> list[images.Layer]:
    found = binaries.resolve(("etcd",), environ=workshop.environ, report=workshop.report)
    return [_tools(workshop), [archives.Entry("usr/local/bin/etcd", found["etcd"], mode=0o755)]]


def _names(*names: str) -> tuple[str, ...]:
    return tuple(f"{_REGISTRY}/{name}" for name in names)


def suite() -> list[images.Recipe]:
    """All images of the suite but pause, which is the cluster's own."""
    shell = archives.Config(cmd=("/bin/sh",), env=_PATH)
    pets = archives.Config(("/agnhost",), ("test-webserver",), _PATH)
    return [
        images.Recipe(
            _names("agnhost:2.63.0", "agnhost:2.55"),
            lambda workshop: [_tools(workshop), _agnhost(workshop)],
            archives.Config(("/agnhost",), ("pause",), _PATH),
        ),
        *(
            images.Recipe(_names(f"{name}:1.8"), functools.partial(_pet, name), pets)
            for name in ("nautilus", "kitten")
        ),
        images.Recipe(
            _names("nginx:1.15-4", "nginx:1.27-0"),
            lambda workshop: [_tools(workshop), _nginx(workshop)],
            archives.Config(cmd=("nginx", "-g", "daemon off;"), env=_PATH),
        ),
        images.Recipe(_names("busybox:1.37.0-1"), _busybox, shell),
        images.Recipe(
            _names("nonroot:1.5"),
            lambda workshop: [_tools(workshop)],
            archives.Config(cmd=("bash",), env=_PATH, user="1234"),
        ),
        images.Recipe(
            _names("nonewprivs:1.4"), _nonewprivs, archives.Config(cmd=("nnp",), env=_PATH)
        ),
        images.Recipe(
            _names("ipc-utils:1.4", "glibc-dns-testing:2.0.0"),
            lambda workshop: [_tools(workshop)],
            shell,
        ),
        images.Recipe(
            _names("sample-apiserver:1.29.2"),
            _sample_apiserver,
            archives.Config(("/sample-apiserver",), env=_PATH),
        ),
        images.Recipe(
            ("registry.k8s.io/etcd:3.6.8-0",), _etcd, archives.Config(cmd=("etcd",), env=_PATH)
        ),
    ]
