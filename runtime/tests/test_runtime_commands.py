"""The command line: every failure is one line and the right exit code, and signals drain."""

import importlib.metadata
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest

from whipstaff.runtime import commands, errors, flags, logs

Outcome = tuple[int, str, str]


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    yield
    logs.setup()


@pytest.fixture
def modules(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, str]], None]:
    """Installs modules, by name and source, as subcommands named as they are."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(sources: dict[str, str]) -> None:
        found = {}
        for name, source in sources.items():
            module = f"made_up_{name}"
            monkeypatch.delitem(sys.modules, module, raising=False)
            (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
            found[name] = importlib.metadata.EntryPoint(
                name, f"{module}:command", commands.ENTRY_POINTS
            )
        monkeypatch.setattr(commands, "_entry_points", lambda: found)

    return install


@pytest.fixture
def whipstaff(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def call(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as left:
            commands.main(arguments)
        out, err = capfd.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, out, err

    return call


def _raising(what: str) -> str:
    return f"""
        import asyncio, click
        from whipstaff.runtime import errors, flags
        @click.command()
        @flags.logging_options
        def command():
            {what}
    """


def test_help_lists_subcommands_without_importing_them(
    modules: Callable[[dict[str, str]], None], whipstaff: Callable[..., Outcome]
) -> None:
    modules(
        {
            "place": 'import no_such_module\ndef command():\n    """Place pods.\n\n    More."""\n',
            "run": '"""Run pods."""\ncommand = None\n',
            "broken": "def command(:",
        }
    )
    code, out, _ = whipstaff("--help")
    assert code == 0
    assert "place   Place pods.\n" in out
    assert "run     Run pods.\n" in out
    assert "broken  (made_up_broken can't be read: " in out
    assert not [name for name in sys.modules if name.startswith("made_up_")]


def test_help_of_the_real_command_doesnt_import_numpy() -> None:
    script = (
        "import sys\nfrom whipstaff.runtime import commands\n"
        "try:\n    commands.main(['--help'])\n"
        "except SystemExit:\n    sys.exit('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert done.returncode == 0
    assert b"Usage: whipstaff" in done.stdout


def test_the_version_is_that_of_the_distribution(whipstaff: Callable[..., Outcome]) -> None:
    version = importlib.metadata.version("whipstaff-runtime")
    assert whipstaff("--version") == (0, f"whipstaff {version}\n", "")


def test_a_broken_subcommand_says_so_and_breaks_no_other(
    modules: Callable[[dict[str, str]], None], whipstaff: Callable[..., Outcome]
) -> None:
    fine = 'import click\n@click.command()\ndef command():\n    click.echo("fine")\n'
    modules({"broken": "import no_such_module", "fine": fine, "odd": "command = 3"})
    code, _, err = whipstaff("broken")
    assert code == 1
    assert err.startswith("Error: the command 'broken' can't be loaded from made_up_broken:command")
    assert "no_such_module" in err
    assert err.count("\n") == 1
    assert whipstaff("fine") == (0, "fine\n", "")
    assert "is no click.Command" in whipstaff("odd")[2]


@pytest.mark.parametrize(
    ("what", "code", "line"),
    [
        ("raise errors.ConfigurationError('s.yaml: spec.x: bad')", 2, "s.yaml: spec.x: bad"),
        ("raise errors.StartupError('no answer\\nfrom there')", 1, "no answer from there"),
        ("raise errors.Unreachable('no answer')", 1, "no answer"),
        ("raise errors.Forbidden(403, 'Forbidden', 'may not')", 1, "may not (HTTP 403)"),
        ("raise click.UsageError('not so')", 2, "not so"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    modules: Callable[[dict[str, str]], None],
    whipstaff: Callable[..., Outcome],
    what: str,
    code: int,
    line: str,
) -> None:
    modules({"fail": _raising(what)})
    got, out, err = whipstaff("fail")
    assert (got, out) == (code, "")
    assert err.splitlines()[-1] == f"Error: {line}"
    assert "Traceback" not in err


def test_a_bug_is_one_line_with_its_place_and_a_traceback_on_request(
    modules: Callable[[dict[str, str]], None], whipstaff: Callable[..., Outcome]
) -> None:
    modules({"fail": _raising("{}['missing']")})
    code, _, err = whipstaff("fail")
    assert code == 1
    assert "made_up_fail.py:7" in err
    assert "unexpected KeyError: 'missing'" in err
    assert err.count("\n") == 1
    assert "Traceback" in whipstaff("fail", "-v", "4")[2]


def test_errors_of_a_task_group_are_told_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    inner = ExceptionGroup("tasks", [errors.ConfigurationError("bad field")])
    code = commands.report(ExceptionGroup("main", [errors.Unreachable("no answer"), inner]))
    assert code == 2
    assert capsys.readouterr().err == "Error: no answer\nError: bad field\n"


def test_a_commands_number_is_the_exit_code(
    modules: Callable[[dict[str, str]], None], whipstaff: Callable[..., Outcome]
) -> None:
    modules({"fail": _raising("click.get_current_context().exit(7)"), "ok": _raising("return")})
    assert whipstaff("fail")[0] == 7
    assert whipstaff("ok")[0] == 0
    assert whipstaff("nothing")[0] == 2
    assert whipstaff("ok", "--nonsense")[0] == 2


# --- flags ---


@pytest.fixture
def parsed() -> Callable[..., dict[str, Any]]:
    """Runs a command that has all the shared flags, and gives what it got."""

    def parse(*arguments: str) -> dict[str, Any]:
        got: dict[str, Any] = {}

        @click.command()
        @flags.kubeconfig_option
        @flags.leader_election_options("whipstaff-test")
        @flags.serving_options(10259)
        @flags.logging_options
        def command(**values: Any) -> None:
            got.update(values)

        command.main(list(arguments), standalone_mode=False)
        return got

    return parse


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], True),
        (["--leader-elect"], True),
        (["--leader-elect=true"], True),
        (["--leader-elect=false"], False),
        (["--leader-elect", "--secure-port=0"], True),
    ],
)
def test_boolean_flags_in_kubernetes_form(
    parsed: Callable[..., dict[str, Any]], arguments: list[str], expected: bool
) -> None:
    assert parsed(*arguments)["leader_election"].leader_elect is expected


def test_shared_flags_come_as_values(parsed: Callable[..., dict[str, Any]]) -> None:
    got = parsed(
        "--kubeconfig=k",
        "--leader-elect-lease-duration=1m",
        "--leader-elect-resource-name=other",
        "--bind-address=::1",
        "--secure-port=1234",
    )
    election = got["leader_election"]
    assert (election.lease_duration, election.renew_deadline, election.retry_period) == (60, 10, 2)
    assert (election.resource_name, election.resource_namespace) == ("other", "kube-system")
    assert election.given == {"lease_duration", "resource_name"}
    assert got["serving"] == flags.Serving("::1", 1234)
    assert got["kubeconfig"] == "k"


def test_a_flag_wins_over_the_file_and_a_default_doesnt(
    parsed: Callable[..., dict[str, Any]],
) -> None:
    file = flags.LeaderElection(leader_elect=False, retry_period=3, resource_name="from-file")
    flag = parsed("--leader-elect-retry-period=1s")["leader_election"]
    merged = flag.over(file)
    assert (merged.leader_elect, merged.retry_period) == (False, 1)
    assert merged.resource_name == "from-file"


def test_durations_are_judged_once_the_file_has_had_its_say(
    parsed: Callable[..., dict[str, Any]],
) -> None:
    file = flags.LeaderElection(lease_duration=6, renew_deadline=4, retry_period=1)
    flag = parsed("--leader-elect-lease-duration=5s")["leader_election"]
    flag.over(file).validate()
    with pytest.raises(errors.ConfigurationError):
        flag.over(flags.LeaderElection()).validate()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--leader-elect=perhaps"],
        ["--leader-elect-lease-duration=15"],
        ["--leader-elect-lease-duration=soon"],
        ["--bind-address=localhost"],
        ["--secure-port=65536"],
        ["--tls-cert-file=/no/such/file"],
        ["--logging-format=xml"],
        ["-v", "loud"],
    ],
)
def test_a_wrong_value_is_a_usage_error(
    parsed: Callable[..., dict[str, Any]], arguments: list[str]
) -> None:
    with pytest.raises(click.UsageError) as refusal:
        parsed(*arguments)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--leader-elect-lease-duration=10s"],
        ["--leader-elect-retry-period=9s"],
        ["--leader-elect-retry-period=0"],
        ["--tls-cert-file", __file__],
    ],
)
def test_values_that_dont_fit_together_are_a_configuration_error(
    parsed: Callable[..., dict[str, Any]], arguments: list[str]
) -> None:
    with pytest.raises(errors.ConfigurationError) as refusal:
        parsed(*arguments)["leader_election"].validate()
    assert arguments[0].partition("=")[0] in str(refusal.value)


@pytest.mark.parametrize("spelling", [["-v", "4"], ["-v=4"], ["-v4"], ["--v=4"], ["--v", "4"]])
def test_verbosity_in_every_spelling(
    parsed: Callable[..., dict[str, Any]], spelling: list[str]
) -> None:
    parsed(*spelling)
    assert logs.enabled(4)
    assert not logs.enabled(5)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("15s", 15), ("1m30s", 90), ("1h", 3600), ("250ms", 0.25), ("1.5s", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert flags.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "15", "s", "1 s", "-1s", "1d", "soon"])
def test_what_is_no_duration_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration") as refusal:
        flags.parse_duration(text)
    assert repr(text) in str(refusal.value)


# --- the event loop of a component ---

COMPONENT = """
import asyncio, sys
from whipstaff.runtime import commands, errors
async def component():
    print("up", flush=True)
    try:
        await asyncio.sleep(30)
    finally:
        {drain}
commands.run(component)
print("left", flush=True)
"""


def _start(drain: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMPONENT.format(drain=drain)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_0(number: signal.Signals) -> None:
    process = _start("await asyncio.sleep(0.05); print('drained', flush=True)")
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (0, "drained\nleft\n")
    assert "Traceback" not in err


def test_a_second_signal_ends_at_once() -> None:
    process = _start("print('draining', flush=True); await asyncio.sleep(30)")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "draining\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 1


def test_an_error_while_draining_isnt_lost() -> None:
    process = _start("raise errors.WhipstaffError('lease could not be given back')")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "lease could not be given back" in err


def test_a_component_ends_by_itself_or_by_its_error() -> None:
    ran = []

    async def done() -> None:
        ran.append(os.getpid())

    async def fails() -> None:
        raise errors.StartupError("no API server")

    commands.run(done)
    assert ran == [os.getpid()]
    with pytest.raises(errors.StartupError, match="no API server"):
        commands.run(fails)


def test_as_a_plugin_of_kubectl_it_is_called_what_kubectl_calls_it() -> None:
    script = pathlib.Path(sys.executable).with_name("kubectl-whipstaff")
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("Usage: kubectl whipstaff ")
