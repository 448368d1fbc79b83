"""What every component's tests share: a stock etcd and kube-apiserver, and a lack of names."""

import socket

import pytest

pytest_plugins = ["whipstaff.cluster.testing"]


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name can be resolved, and no resolver is asked."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
