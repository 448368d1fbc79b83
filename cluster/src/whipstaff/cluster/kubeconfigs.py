"""Kubeconfig files: one for each client of the cluster.

Answers to client-go's ``tools/clientcmd``. Credentials are embedded, so a kubeconfig is one file
that can be copied.
"""

import base64
import pathlib
from typing import Any

import yaml

from whipstaff.cluster import certificates, files


def document(
    name: str, user: str, server: str, ca: pathlib.Path, pair: certificates.Pair
) -> dict[str, Any]:
    """A kubeconfig with the one context ``name``, in which ``user`` talks to ``server``."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": server, "certificate-authority-data": _data(ca)}}
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _data(pair.certificate),
                    "client-key-data": _data(pair.key),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    }


def write(path: pathlib.Path, config: dict[str, Any]) -> pathlib.Path:
    """Write a kubeconfig that only its owner may read."""
    files.private_folder(path.parent)
    files.write(path, yaml.safe_dump(config, sort_keys=False).encode(), mode=0o600)
    return path


def _data(path: pathlib.Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
