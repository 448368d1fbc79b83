"""Fixtures that every component's tests share: a stock etcd and kube-apiserver."""

pytest_plugins = ["whipstaff.cluster.testing"]
