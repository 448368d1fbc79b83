"""The API server, as a pod of this release asks it: with nothing but Python's own library."""

import http.client
import json
import os
import pathlib
import ssl
import sys
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")


def request(method: str, path: str, body: Any = None, **query: str) -> Any:
    """The decoded answer; None where there is no such object.

    Raises:
        RuntimeError: the API server says no.
    """
    server = urllib.parse.urlsplit(
        os.environ.get("API_SERVER")
        or "https://{KUBERNETES_SERVICE_HOST}:{KUBERNETES_SERVICE_PORT}".format(**os.environ)
    )
    account = pathlib.Path(os.environ.get("ACCOUNT", ACCOUNT))
    context = ssl.create_default_context(cafile=str(account / "ca.crt"))
    connection = http.client.HTTPSConnection(server.netloc, timeout=30, context=context)
    headers = {
        "Authorization": f"Bearer {(account / 'token').read_text().strip()}",
        "Content-Type": "application/json" if method != "PATCH" else "application/merge-patch+json",
    }
    target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
    try:
        connection.request(method, target, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if response.status == http.client.NOT_FOUND:
        return None
    if response.status >= http.client.MULTIPLE_CHOICES:
        raise RuntimeError(f"{method} {path}: {response.status} {text}")
    return json.loads(text) if text.startswith("{") else text


def wait_for(what: str, ask: Callable[[], Any], seconds: float) -> Any:
    """The first answer that is true; ends the process with a line where there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        if time.monotonic() > deadline:
            sys.exit(f"FAILED: {what}: not within {seconds:g} s")
        time.sleep(0.5)
    print(f"ok: {what}", flush=True)
    return found
