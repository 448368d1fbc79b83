"""Root file systems for container images, from tools that this machine's packages bring.

A static busybox gives a shell and some 300 small tools. It is the one on PATH, or is taken from
Debian's package, unpacked into the cache and never installed.
"""

import pathlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from whipstaff.cluster import archives, packages

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PT_INTERP = 3  # the ELF segment that names a dynamic linker

USERS = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUPS = """\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
users:x:100:
www-data:x:33:
nobody:x:65534:
"""


def busybox(environ: Mapping[str, str]) -> Sequence[archives.Entry]:
    """The root of a busybox image: every applet a link in /bin, and the usual files and folders.

    Raises:
        StartupError: no static busybox is to be had.
    """
    program = find_busybox(environ)
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    applets = sorted(set(listed.stdout.split()) - {"busybox"})
    return [
        archives.Entry("bin/busybox", program, mode=0o755),
        *(archives.Entry(f"bin/{applet}", link="busybox") for applet in applets),
        archives.Entry("usr/bin/env", link="../../bin/env"),
        *(archives.Entry(path) for path in ("dev", "proc", "sys", "sbin", "usr/sbin", "run")),
        *(archives.Entry(path) for path in ("var/spool/mail", "var/www", "var/log", "mnt")),
        archives.Entry("root", mode=0o700),
        archives.Entry("home", owner=(65534, 65534)),
        archives.Entry("tmp", mode=0o1777),
        archives.Entry("var/tmp", mode=0o1777),
        archives.Entry("etc/passwd", USERS.encode()),
        archives.Entry("etc/group", GROUPS.encode()),
    ]


def find_busybox(environ: Mapping[str, str]) -> pathlib.Path:
    """A busybox without shared libraries: the one on PATH, else the one of Debian's package.

    Raises:
        StartupError: there is neither.
    """
    on_path = shutil.which("busybox", path=environ.get("PATH"))
    if on_path is not None and is_static(pathlib.Path(on_path)):
        return pathlib.Path(on_path)
    return packages.unpacked(("busybox-static",), environ, alone=True) / "bin" / "busybox"


def is_static(program: pathlib.Path) -> bool:
    """Whether a program is an ELF file of 64 bits that names no dynamic linker."""
    with program.open("rb") as file:
        header = file.read(64)
        if header[:5] != b"\x7fELF\x02":
            return False
        start = int.from_bytes(header[32:40], "little")
        size = int.from_bytes(header[54:56], "little")
        count = int.from_bytes(header[56:58], "little")
        file.seek(start)
        segments = [file.read(size)[:4] for _ in range(count)]
    return all(int.from_bytes(kind, "little") != _PT_INTERP for kind in segments)
