"""`whipstaff controllers`: the flags, and the checks that come before anything starts.

No loop runs here but the process's own, which `app.run` fills. Whatever is wrong with a flag is one
line and exit code 2.

Answers to `cmd/kube-controller-manager/app/options`. Left out: its configuration file, feature
gates, and the flags of the controllers that aren't here.
"""

import click

from whipstaff.controllers import app
from whipstaff.runtime import commands, config, errors, flags


def chosen(text: str) -> tuple[str, ...]:
    """The controllers that `--controllers` names, in the order in which they start.

    Raises:
        errors.ConfigurationError: one isn't known, or none is named.
    """
    names = {name.strip().removesuffix("-controller") for name in text.split(",") if name.strip()}
    if "*" in names:
        names = names - {"*"} | set(app.CONTROLLERS)
    known = ", ".join(app.CONTROLLERS)
    if unknown := sorted(names - set(app.CONTROLLERS)):
        raise errors.ConfigurationError(
            f"--controllers: {', '.join(unknown)}: not known, there are {known}"
        )
    if not names:
        raise errors.ConfigurationError(f"--controllers: names none of {known}")
    return tuple(name for name in app.CONTROLLERS if name in names)


@click.command("controllers")
@flags.kubeconfig_option
@click.option(
    "--controllers",
    metavar="NAME,...",
    default=",".join(app.CONTROLLERS),
    show_default=True,
    help="Which controllers to run.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How many objects each controller works on at the same time.",
)
@click.option(
    "--look-for-stock",
    type=click.BOOL,
    default=True,
    show_default=True,
    help="Whether to refuse to work beside the stock controllers.",
)
@click.option(
    "--shadow",
    is_flag=True,
    help="Write nothing, and tell what the stock controllers do otherwise than these would.",
)
@flags.leader_election_options(app.LEASE)
@flags.serving_options(10257)
@flags.logging_options
def command(
    kubeconfig: str | None,
    controllers: str,
    workers: int,
    look_for_stock: bool,
    shadow: bool,
    leader_election: flags.LeaderElection,
    serving: flags.Serving,
) -> None:
    """Keep Deployments and ReplicaSets as they were asked for."""
    leader_election.validate()
    plan = app.Plan(chosen(controllers), workers, leader_election, serving, look_for_stock, shadow)
    connection = config.load(kubeconfig)
    from whipstaff.controllers import operator  # noqa: PLC0415 (kopf is slow to import)

    commands.run(lambda: operator.run(plan, connection))
