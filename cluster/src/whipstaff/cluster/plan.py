"""What a cluster is to be, and what was decided for it: kept in ``cluster.json``.

Owns the file. ``up`` writes it before it starts the supervisor, the supervisor reads it, and a
later ``up`` compares itself with it. What runs right now is in `whipstaff.cluster.state` instead.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from whipstaff.cluster import binaries, certificates, components, files, layout, networks, ports
from whipstaff.runtime import errors


@dataclass(frozen=True, slots=True)
class Spec:
    """What the user asked for; a field a flag of ``whipstaff up``."""

    nodes: int = 3
    provider: str = components.SIMULATED
    kubernetes_version: str = binaries.KUBERNETES_VERSION
    stock: tuple[str, ...] = ()
    extra_config: tuple[str, ...] = ()
    fsync: bool = True
    addons: bool = True
    images: tuple[str, ...] = ()

    def differences(self, asked: Mapping[str, Any]) -> list[str]:
        """Where ``asked`` (only fields that were really given) wants something else, in words."""
        return [
            f"{_flag(name)} {_words(getattr(self, name))}, not {_words(value)}"
            for name, value in asked.items()
            if getattr(self, name) != value
        ]

    def extra(self) -> dict[str, tuple[str, ...]]:
        """``--extra-config COMPONENT.FLAG=VALUE`` as flags by component."""
        found: dict[str, tuple[str, ...]] = {}
        for entry in self.extra_config:
            component, _, flag = entry.partition(".")
            found[component] = (*found.get(component, ()), f"--{flag}")
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster as ``up`` decided it.

    Attributes:
        binaries: the path of each binary.
        previous_context: the user's current kubeconfig context before ``up`` changed it.
        user_kubeconfig: the user's kubeconfig that holds our context, None when none does.
        context: what that context is called.
        network: of the nodes with real containers; None where there are none.
        archives: images that such nodes get, as paths.
    """

    spec: Spec = Spec()
    ports: components.Ports = field(default_factory=components.Ports)
    binaries: Mapping[str, str] = field(default_factory=dict)
    user_kubeconfig: str | None = None
    context: str | None = None
    previous_context: str | None = None
    network: networks.Network | None = None
    archives: tuple[str, ...] = ()

    @classmethod
    def load(cls, place: layout.Layout) -> "Plan | None":
        """The plan of an existing cluster, None where there isn't one.

        Raises:
            ConfigurationError: the file can't be understood.
        """
        try:
            raw = orjson.loads(place.plan.read_bytes())
            return cls(
                spec=Spec(**{**raw["spec"], **_tuples(raw["spec"])}),
                ports=components.Ports(**raw["ports"]),
                binaries=raw["binaries"],
                user_kubeconfig=raw["user_kubeconfig"],
                context=raw["context"],
                previous_context=raw["previous_context"],
                network=networks.Network(**raw["network"]) if raw["network"] else None,
                archives=tuple(raw["archives"]),
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise errors.ConfigurationError(
                f"{place.plan}: isn't a cluster of this version ({error}); `whipstaff down` first"
            ) from None

    def save(self, place: layout.Layout) -> None:
        """Write the plan."""
        contents = orjson.dumps(dataclasses.asdict(self), option=orjson.OPT_INDENT_2)
        files.write(place.plan, contents + b"\n", mode=0o600)

    @property
    def server(self) -> str:
        """The apiserver's URL."""
        host = self.network.gateway if self.network else ports.LOOPBACK
        return f"https://{host}:{self.ports.apiserver}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where the apiserver is reached, besides loopback."""
        return (self.network.gateway,) if self.network else ()

    def settings(self, place: layout.Layout, pki: certificates.Pki) -> components.Settings:
        """What the components' flags are made of."""
        return components.Settings(
            files=place,
            pki=pki,
            ports=self.ports,
            binaries={name: pathlib.Path(path) for name, path in self.binaries.items()},
            nodes=self.spec.nodes,
            provider=self.spec.provider,
            stock=frozenset(self.spec.stock),
            fsync=self.spec.fsync,
            extra=self.spec.extra(),
            network=self.network,
            archives=tuple(pathlib.Path(path) for path in self.archives),
        )


def _tuples(spec: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(value) for name, value in spec.items() if isinstance(value, list)}


def _flag(name: str) -> str:
    return "--unsafe-no-fsync" if name == "fsync" else f"--{name.replace('_', '-')}"


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "nothing"
    return str(value)
