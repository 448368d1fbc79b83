"""The flags that components share, in Kubernetes form, as decorators for click commands.

Runs nothing and owns nothing: a decorator adds options to a command and hands their values to it,
several that belong together as one dataclass. What a user gave is told from what is a default, so
that a flag can win over a configuration file without the file being forgotten. A value that can't
be used is a usage error of click or an `errors.ConfigurationError` that names the flag.

Answers to component-base ``config/options/leaderelectionconfig.go``, ``logs/api/v1/options.go``
and apiserver ``pkg/server/options/serving.go``. Left out: feature gates, cipher suites, dynamic
certificates, and the flags of the delegated authentication, which takes its kubeconfig and its
defaults from the component itself.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import click

from whipstaff.runtime import errors

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?(?:h|ms|m|s|us|µs|ns))+")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


class Boolean(click.Option):
    """A flag as Kubernetes components take it: ``--leader-elect`` or ``--leader-elect=false``."""

    def __init__(self, declarations: Sequence[str], **attributes: Any) -> None:
        super().__init__(
            declarations, **{"is_flag": False, "flag_value": "true", "type": bool, **attributes}
        )

    def make_metavar(self, ctx: click.Context) -> str:  # noqa: ARG002 (click's interface)
        """What stands behind the name in the help."""
        return "[=BOOLEAN]"


class Duration(click.ParamType[float]):
    """A duration as Go writes it, such as ``15s`` or ``1m30s``; the value is seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the text; a number is seconds already."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Verbosity(click.ParamType[int]):
    """``-v 4``, ``-v=4`` and ``--v=4`` are all in use."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).removeprefix("=")
        if not text.isdecimal():
            self.fail(f"{value!r} is not a number from 0 up", param, ctx)
        return int(text)


class _Address(click.ParamType[str]):
    """An IP address to listen on."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            self.fail(f"{value!r} is not an IP address", param, ctx)


def parse_duration(text: str) -> float:
    """The seconds of a Go duration such as ``1m30s``, ``100ms`` or ``0``.

    Raises:
        ValueError: the text isn't one; the message names it.
    """
    if text == "0":
        return 0.0
    if _DURATION.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a duration (such as 15s, 1m30s or 500ms)")
    parts = re.findall(r"([0-9.]+)(h|ms|m|s|us|µs|ns)", text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


@dataclasses.dataclass(frozen=True, slots=True)
class LeaderElection:
    """What the ``--leader-elect*`` flags say; durations in seconds.

    `given` are the names of the fields that the user set: a configuration file counts for the rest.
    """

    leader_elect: bool = True
    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0
    resource_name: str = ""
    resource_namespace: str = "kube-system"
    given: frozenset[str] = frozenset()

    def over(self, file: LeaderElection) -> LeaderElection:
        """What was given as flags, and for everything else what a configuration file says."""
        return dataclasses.replace(file, **{field: getattr(self, field) for field in self.given})

    def validate(self) -> None:
        """Check that a lease is kept for longer than it takes to renew it.

        Raises:
            errors.ConfigurationError: names the flags.
        """
        if not self.lease_duration > self.renew_deadline:
            raise errors.ConfigurationError(
                f"--leader-elect-lease-duration ({self.lease_duration:g}s) must be greater than "
                f"--leader-elect-renew-deadline ({self.renew_deadline:g}s)"
            )
        if not self.renew_deadline > 1.2 * self.retry_period > 0:
            raise errors.ConfigurationError(
                f"--leader-elect-renew-deadline ({self.renew_deadline:g}s) must be greater than "
                f"1.2 times --leader-elect-retry-period ({self.retry_period:g}s), and that above 0"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Serving:
    """What the serving flags say. Port 0 serves nothing, as upstream."""

    bind_address: str
    port: int
    certificate: str | None = None
    key: str | None = None
    client_ca: str | None = None


def kubeconfig_option(function: Decorated) -> Decorated:
    """``--kubeconfig FILE`` as the keyword ``kubeconfig``; None is as `config.load` finds it."""
    return click.option(
        "--kubeconfig",
        metavar="FILE",
        help="Where and as whom to reach the API server. "
        "Without it: $KUBECONFIG, ~/.kube/config, then the pod's service account.",
    )(function)


def logging_options(function: Decorated) -> Decorated:
    """``-v`` and ``--logging-format``, which set up `logs` before the function runs."""
    verbosity = click.option(
        "-v", "--v", "verbosity", type=_Verbosity(), default=0, show_default=True, metavar="N",
        expose_value=False, callback=_set_up_logs, help="Log verbosity; 4 is debugging.",
    )  # fmt: skip
    form = click.option(
        "--logging-format", type=click.Choice(["text", "json"]), default="text", show_default=True,
        expose_value=False, callback=_set_up_logs, help="Form of the log lines.",
    )  # fmt: skip
    return verbosity(form(function))


def leader_election_options(resource_name: str, *, leader_elect: bool = True) -> Decorator:
    """The ``--leader-elect*`` flags, as the keyword ``leader_election`` (a `LeaderElection`).

    Whether its durations fit together shows when a configuration file has had its say: the command
    calls `LeaderElection.validate` then.
    """
    usual = LeaderElection(leader_elect=leader_elect, resource_name=resource_name)
    duration = functools.partial(click.option, type=Duration(), show_default=True)
    options = {
        "leader_elect": click.option(
            "--leader-elect", cls=Boolean, default=usual.leader_elect, show_default=True,
            help="Work only while holding a lease, so that one of several replicas does.",
        ),
        "lease_duration": duration(
            "--leader-elect-lease-duration", default=f"{usual.lease_duration:g}s",
            help="How long others wait for a silent leader.",
        ),
        "renew_deadline": duration(
            "--leader-elect-renew-deadline", default=f"{usual.renew_deadline:g}s",
            help="How long a leader tries to renew before it gives up.",
        ),
        "retry_period": duration(
            "--leader-elect-retry-period", default=f"{usual.retry_period:g}s",
            help="How long to wait between two tries.",
        ),
        "resource_name": click.option(
            "--leader-elect-resource-name", default=usual.resource_name, show_default=True,
            help="Name of the lease.",
        ),
        "resource_namespace": click.option(
            "--leader-elect-resource-namespace", default=usual.resource_namespace,
            show_default=True, help="Namespace of the lease.",
        ),
    }  # fmt: skip

    def build(values: dict[str, Any], given: frozenset[str]) -> LeaderElection:
        return LeaderElection(**values, given=given)

    return _gathered("leader_election", "leader_elect_", options, build)


def serving_options(port: int, *, bind_address: str = "0.0.0.0") -> Decorator:  # noqa: S104
    """The flags of the HTTPS server, as the keyword ``serving`` (a `Serving`)."""
    file = click.Path(exists=True, dir_okay=False)
    options = {
        "bind_address": click.option(
            "--bind-address", type=_Address(), default=bind_address, show_default=True,
            help="IP address to serve health and metrics on.",
        ),
        "port": click.option(
            "--secure-port", "port", type=click.IntRange(0, 65535), default=port, show_default=True,
            help="Port to serve HTTPS on; 0 doesn't serve.",
        ),
        "certificate": click.option(
            "--tls-cert-file", "certificate", type=file,
            help="Certificate to serve with. Without it: a self-signed one.",
        ),
        "key": click.option(
            "--tls-private-key-file", "key", type=file, help="Private key of the certificate."
        ),
        "client_ca": click.option(
            "--client-ca-file", "client_ca", type=file,
            help="CA of client certificates. Without it: the cluster's own.",
        ),
    }  # fmt: skip

    def build(values: dict[str, Any], _: frozenset[str]) -> Serving:
        if bool(values["certificate"]) != bool(values["key"]):
            raise errors.ConfigurationError(
                "--tls-cert-file and --tls-private-key-file go together: give both or none"
            )
        return Serving(**values)

    return _gathered("serving", "", options, build)


def _gathered(
    keyword: str,
    prefix: str,
    options: dict[str, Callable[[Any], Any]],
    build: Callable[[dict[str, Any], frozenset[str]], Any],
) -> Decorator:
    """A decorator that hands the values of several options to the command as one keyword.

    `options` are by field; the parameter of a field is named by it, with or without the prefix.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(*args: Any, **values: Any) -> Any:
            parameters = {
                field: field if field in values else f"{prefix}{field}" for field in options
            }
            context = click.get_current_context()
            given = frozenset(
                field
                for field, parameter in parameters.items()
                if context.get_parameter_source(parameter) is not click.core.ParameterSource.DEFAULT
            )
            fields = {field: values.pop(parameter) for field, parameter in parameters.items()}
            return function(*args, **{keyword: build(fields, given)}, **values)

        decorated: Callable[..., Any] = command
        for option in reversed(options.values()):
            decorated = option(decorated)
        return decorated

    return decorate


def _set_up_logs(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    from whipstaff.runtime import logs  # noqa: PLC0415 (structlog is slow to import)

    settings = context.meta.setdefault("whipstaff.logs", {"verbosity": 0, "logging_format": "text"})
    settings[parameter.name] = value
    logs.setup(settings["verbosity"], settings["logging_format"])
