"""`whipstaff scheduler`: the flags, and the checks that come before anything starts.

No loop runs here but the process's own, which `app.run` fills. A flag wins over the configuration
file; the file wins over the defaults. Whatever is wrong with either is one line and exit code 2.

Answers to `cmd/kube-scheduler/app/options`. Left out: deprecated flags and feature gates.
"""

import click

from whipstaff.runtime import commands, config, errors, flags, quantities, zpages
from whipstaff.scheduler import app, configuration, profile, views


@click.command("scheduler")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="A KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1).",
)
@flags.kubeconfig_option
@click.option(
    "--scheduler-name",
    "scheduler_names",
    multiple=True,
    metavar="NAME",
    help="Schedule pods that ask for this schedulerName; may be given several times. "
    f"[default: {configuration.DEFAULT_SCHEDULER_NAME}, or what the file says]",
)
@flags.leader_election_options(configuration.LEADER_ELECTION.resource_name)
@flags.serving_options(10259)
@click.option(
    "--page-address",
    metavar="IP:PORT",
    default="",
    help="Serve the page that shows the cluster here as well, over HTTP and without asking who it "
    "is; a loopback address, such as 127.0.0.1:10260.",
)
@click.option(
    "--explanation-memory",
    metavar="QUANTITY",
    default="8Mi",
    show_default=True,
    help="Memory for what the last decisions rested on; 0 doesn't keep it.",
)
@flags.logging_options
def command(
    config_file: str | None,
    kubeconfig: str | None,
    scheduler_names: tuple[str, ...],
    leader_election: flags.LeaderElection,
    serving: flags.Serving,
    page_address: str,
    explanation_memory: str,
) -> None:
    """Place pods on nodes: a Kubernetes scheduler over arrays."""
    evidence_bytes = _bytes(explanation_memory)
    page = views.loopback(page_address) if page_address else None
    settings = configuration.effective(
        configuration.load(config_file, external=profile.installed())
        if config_file is not None
        else configuration.Configuration(),
        scheduler_names,
        leader_election,
    )
    profiles = app.build_profiles(settings)
    connection = config.load(kubeconfig or settings.client_connection.kubeconfig)
    shown = zpages.flags_of(click.get_current_context())
    commands.run(
        lambda: app.run(
            settings,
            profiles,
            connection,
            serving,
            page_address=page,
            evidence_bytes=evidence_bytes,
            shown_flags=shown,
        )
    )


def _bytes(text: str) -> int:
    try:
        amount = quantities.value(text)
    except ValueError as error:
        raise errors.ConfigurationError(f"--explanation-memory: {error}") from error
    if amount < 0:
        raise errors.ConfigurationError(f"--explanation-memory: {text!r} is less than nothing")
    return amount
