"""Starts the node agent of a twin node, which asks for its certificate as the pod's own account.

The kubeconfig for that is written here: only a running pod knows where its API server is.
"""

import json
import os
import pathlib
import sys

ACCOUNT = pathlib.Path(os.environ.get("ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))


def kubeconfig(environ: dict[str, str]) -> dict[str, object]:
    """A kubeconfig of the pod's account; its token is read anew each time."""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    cluster = {
        "server": f"https://{host}:{port}",
        "certificate-authority": str(ACCOUNT / "ca.crt"),
    }
    context = {"cluster": "cluster", "user": "account"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "account", "user": {"tokenFile": str(ACCOUNT / "token")}}],
        "contexts": [{"name": "account", "context": context}],
        "current-context": "account",
    }


if __name__ == "__main__":
    file = pathlib.Path(os.environ["BOOTSTRAP_KUBECONFIG"])
    file.write_text(json.dumps(kubeconfig(dict(os.environ))))
    os.execvp(sys.argv[1], sys.argv[1:])
