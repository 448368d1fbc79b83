"""Services, as containers learn of them: by variables such as ``WEB_SERVICE_HOST``.

Every container has the variables of the API server's own Service, and, unless its pod says no to
service links, those of all Services of its namespace, as they are when it starts.

Runs an informer's loop; owns the copy of what the variables are made of (name, ClusterIP, ports).
Answers to getServiceEnvVarMap in ``pkg/kubelet/kubelet_pods.go`` and to ``pkg/kubelet/envvars``.
"""

from __future__ import annotations

from collections.abc import Iterable

from whipstaff.runtime import client, informer, objects, resources

Object = objects.Object

# The API server's Service, which pods need to find it.
_MASTER = ("default", "kubernetes")


class Services:
    """The Services that have an address.

    Args:
        api: the client.
    """

    def __init__(self, api: client.Client) -> None:
        self._informer = informer.Informer(
            api,
            resources.SERVICES,
            # A headless one gives no variables.
            field_selector="spec.clusterIP!=None",
            transform=_pruned,
            indexers={"namespace": lambda service: [service["metadata"]["namespace"]]},
        )

    async def run(self) -> None:
        """Keep the copy current until cancelled."""
        await self._informer.run()

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until all Services have been read once.

        Raises:
            errors.Unreachable: they haven't been after `timeout` seconds.
        """
        await self._informer.wait_synced(timeout)

    def variables(self, namespace: str, enable_links: bool) -> dict[str, str]:
        """What containers in a namespace are told.

        Args:
            namespace: the pod's.
            enable_links: the pod's ``enableServiceLinks``.
        """
        found = {}
        master = self._informer.get("/".join(_MASTER))
        if master is not None:
            found[_MASTER[1]] = master
        if enable_links:
            for service in self._informer.by_index("namespace", namespace):
                found[service["metadata"]["name"]] = service
        return variables(found.values())


def variables(services: Iterable[Object]) -> dict[str, str]:
    """The variables of Services that have addresses. Pure."""
    found: dict[str, str] = {}
    for service in services:
        address, ports = service["spec"]["clusterIP"], service["spec"]["ports"]
        prefix = _variable_name(service["metadata"]["name"])
        found[f"{prefix}_SERVICE_HOST"] = address
        found[f"{prefix}_SERVICE_PORT"] = str(ports[0]["port"])
        for port in ports:
            if port.get("name"):
                name = f"{prefix}_SERVICE_PORT_{_variable_name(port['name'])}"
                found[name] = str(port["port"])
        found |= _links(prefix, address, ports)
    return found


def _links(prefix: str, address: str, ports: Iterable[Object]) -> dict[str, str]:
    """What Docker's links were: ``WEB_PORT_80_TCP=tcp://10.0.0.1:80`` and its parts."""
    host = f"[{address}]" if ":" in address else address
    found: dict[str, str] = {}
    for port in ports:
        number, protocol = port["port"], port.get("protocol") or "TCP"
        url = f"{protocol.lower()}://{host}:{number}"
        name = f"{prefix}_PORT_{number}_{protocol.upper()}"
        found.setdefault(f"{prefix}_PORT", url)
        found[name] = url
        found[f"{name}_PROTO"] = protocol.lower()
        found[f"{name}_PORT"] = str(number)
        found[f"{name}_ADDR"] = address
    return found


def _variable_name(name: str) -> str:
    return name.replace("-", "_").upper()


def _pruned(service: Object) -> Object | None:
    spec = service["spec"]
    ports = spec.get("ports")
    if spec.get("clusterIP") in {None, "", "None"} or not ports:
        return None
    metadata = service["metadata"]
    kept = ("name", "port", "protocol")
    return {
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": {
            "clusterIP": spec["clusterIP"],
            "ports": [{key: port[key] for key in kept if key in port} for port in ports],
        },
    }
