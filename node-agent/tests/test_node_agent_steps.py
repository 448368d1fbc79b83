"""What is done next for a pod, and in which order a pod is stopped."""

from __future__ import annotations

from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import containers, provider, steps

NOTHING = steps.Waits()


def step(
    pod: Any, runtime: provider.RuntimePod, waits: steps.Waits = NOTHING, now: float = make.NOW
) -> steps.Step:
    return steps.next_step(pod, runtime, waits, now)


def starts(found: steps.Step) -> list[str]:
    return [o.name for o in found.operations if isinstance(o, steps.StartContainer)]


def kinds(found: steps.Step) -> list[str]:
    return [type(operation).__name__ for operation in found.operations]


def test_a_new_pod_gets_a_sandbox_and_all_its_containers_in_one_step() -> None:
    pod = make.pod(containers=[make.container("app"), make.container("log")])
    found = step(pod, make.nothing())
    assert kinds(found) == ["CreateSandbox", "StartContainer", "StartContainer"]
    assert found.operations[0] == steps.CreateSandbox(0)
    assert starts(found) == ["app", "log"]


def test_a_pod_with_init_containers_starts_with_the_first_of_them() -> None:
    pod = make.pod(initContainers=[make.container("one"), make.container("two")])
    assert starts(step(pod, make.nothing())) == ["one"]


def test_init_containers_follow_one_another() -> None:
    pod = make.pod(initContainers=[make.container("one"), make.container("two")])
    one = make.run("one", "running")
    assert step(pod, make.runtime(one)).operations == ()
    done = make.run("one", "exited")
    assert starts(step(pod, make.runtime(done))) == ["two"]
    both = make.runtime(done, make.run("two", "exited"))
    assert starts(step(pod, both)) == ["app"]


def test_an_init_container_that_failed_is_tried_again() -> None:
    pod = make.pod(initContainers=[make.container("one")])
    found = step(pod, make.runtime(make.run("one", "exited", exit_code=1)))
    assert starts(found) == ["one"]
    assert found.operations[0].attempt == 1  # type: ignore[union-attr]


def test_an_init_container_that_failed_for_good_takes_the_pod_with_it() -> None:
    pod = make.pod(initContainers=[make.container("one")], restartPolicy="Never")
    found = step(pod, make.runtime(make.run("one", "exited", exit_code=1)))
    assert kinds(found) == ["KillPod"]


def test_a_sidecar_needs_only_to_have_started() -> None:
    sidecar = make.container("proxy", restartPolicy="Always")
    pod = make.pod(initContainers=[sidecar, make.container("two")])
    assert starts(step(pod, make.runtime(make.run("proxy")))) == ["two"]


def test_a_sidecar_with_a_startup_probe_is_waited_for() -> None:
    sidecar = make.container("proxy", restartPolicy="Always", startupProbe={})
    pod = make.pod(initContainers=[sidecar])
    assert step(pod, make.runtime(make.run("proxy"))).operations == ()
    ready = make.run("proxy", probes={"startup": True})
    assert starts(step(pod, make.runtime(ready))) == ["app"]


def test_a_sidecar_that_ended_runs_again_while_the_pod_runs() -> None:
    sidecar = make.container("proxy", restartPolicy="Always")
    pod = make.pod(initContainers=[sidecar], restartPolicy="Never")
    found = step(pod, make.runtime(make.run("proxy", "exited"), make.run("app")))
    assert starts(found) == ["proxy"]


def test_init_containers_are_not_run_again_once_the_app_runs() -> None:
    pod = make.pod(initContainers=[make.container("one"), make.container("two")])
    assert step(pod, make.runtime(make.run("app"))).operations == ()


def test_a_running_pod_is_left_alone() -> None:
    assert step(make.pod(), make.runtime(make.run())) == steps.Step()


@pytest.mark.parametrize(
    ("policy", "code", "restarted"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_the_restart_policy_decides_what_runs_again(
    policy: str, code: int, restarted: bool
) -> None:
    pod = make.pod(restartPolicy=policy)
    found = step(pod, make.runtime(make.run(state="exited", exit_code=code)))
    assert starts(found) == (["app"] if restarted else [])
    assert kinds(found) == (["StartContainer"] if restarted else ["KillPod"])


@pytest.mark.parametrize(("code", "restarted"), [(42, True), (1, False)])
def test_a_restart_rule_of_a_container_stands_over_the_pods_policy(
    code: int, restarted: bool
) -> None:
    rule = {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}
    app = make.container("app", restartPolicy="Never", restartPolicyRules=[rule])
    pod = make.pod(containers=[app], restartPolicy="Never")
    found = step(pod, make.runtime(make.run(state="exited", exit_code=code)))
    assert starts(found) == (["app"] if restarted else [])


def test_a_lost_sandbox_is_replaced_and_everything_starts_over() -> None:
    pod = make.pod(initContainers=[make.container("one")])
    lost = make.runtime(make.run(), box=make.sandbox(ready=False))
    found = step(pod, lost)
    assert kinds(found) == ["KillPod", "CreateSandbox", "StartContainer"]
    assert found.operations[1] == steps.CreateSandbox(1, replaces=True)
    assert starts(found) == ["one"]


def test_init_containers_run_in_each_sandbox_whoever_made_it() -> None:
    # The agent was killed after it had made the second sandbox, before it could clear away what
    # had run in the first one.
    pod = make.pod(initContainers=[make.container("one"), make.container("two")])
    found = make.runtime(
        make.run("one", "exited"),
        make.run("two", "exited"),
        make.run("app", "exited", exit_code=255),
        box=make.sandbox(attempt=1),
    )
    assert starts(step(pod, found)) == ["one"]
    again = found.with_container(make.run("one", "exited", 1, sandbox_id="sandbox-1"))
    assert starts(step(pod, again)) == ["two"]


def test_a_run_once_pod_that_lost_its_sandbox_is_not_run_twice() -> None:
    pod = make.pod(restartPolicy="Never")
    lost = make.runtime(make.run(state="exited"), box=make.sandbox(ready=False))
    assert step(pod, lost).operations == ()


def test_a_run_once_pod_that_lost_its_sandbox_before_it_began_begins_anew() -> None:
    # Otherwise it would neither run nor end, ever.
    pod = make.pod(initContainers=[make.container("one")], restartPolicy="Never")
    lost = make.runtime(
        make.run("one", "exited"),
        make.run("app", "created"),
        box=make.sandbox(ready=False),
    )
    found = step(pod, lost)
    assert kinds(found)[-2:] == ["CreateSandbox", "StartContainer"]
    assert starts(found) == ["one"]


def test_ephemeral_containers_start_once_even_while_the_pod_initializes() -> None:
    pod = make.pod(
        initContainers=[make.container("one")], ephemeralContainers=[make.container("debug")]
    )
    assert starts(step(pod, make.runtime(make.run("one")))) == ["debug"]
    ended = make.runtime(make.run("one"), make.run("debug", "exited"))
    assert starts(step(pod, ended)) == []


def test_a_container_that_fails_its_liveness_probe_is_killed_and_restarted() -> None:
    pod = make.pod(containers=[make.container("app", livenessProbe={})])
    found = step(pod, make.runtime(make.run(probes={"liveness": False})))
    assert kinds(found) == ["StopContainer", "StartContainer"]
    assert found.operations[0].message == (  # type: ignore[union-attr]
        "Container app failed liveness probe, will be restarted"
    )


def test_a_failed_liveness_probe_ends_a_run_once_container() -> None:
    pod = make.pod(
        containers=[make.container("app", livenessProbe={}), make.container("log")],
        restartPolicy="Never",
    )
    alive = make.runtime(make.run(probes={"liveness": False}), make.run("log"))
    assert kinds(step(pod, alive)) == ["StopContainer"]


@pytest.mark.parametrize("policy", ["Always", "Never"])
def test_a_container_whose_image_was_changed_is_replaced_whatever_the_policy(policy: str) -> None:
    pod = make.pod(restartPolicy=policy)
    found = step(pod, make.runtime(make.run(definition_image="older")))
    assert kinds(found) == ["StopContainer", "StartContainer"]
    assert found.operations[0].message == (  # type: ignore[union-attr]
        "Container app definition changed, will be restarted"
    )
    assert step(pod, make.runtime(make.run(definition_image="nginx"))).operations == ()


def test_a_container_in_an_unknown_state_is_stopped_before_it_is_started() -> None:
    found = step(make.pod(), make.runtime(make.run(state="unknown")))
    assert kinds(found) == ["StopContainer", "StartContainer"]


# Back-offs.


def test_the_first_restart_is_immediate_and_the_following_wait_longer_and_longer() -> None:
    pod = make.pod()
    backoffs: dict[str, containers.Backoff] = {}
    now, waited = make.NOW, []
    for attempt in range(9):
        ended = make.run(state="exited", attempt=attempt, exit_code=1, finished_at=now)
        found = step(pod, make.runtime(ended), steps.Waits(backoffs), now)
        (operation,) = found.operations
        if isinstance(operation, steps.BackOff):
            assert found.wake_at == operation.until
            waited.append(operation.until - now)
            now = operation.until
            found = step(pod, make.runtime(ended), steps.Waits(backoffs), now)
            (operation,) = found.operations
        assert isinstance(operation, steps.StartContainer)
        assert operation.backoff is not None
        backoffs["app"] = operation.backoff
        now += 1
    assert waited == [10, 20, 40, 80, 160, 300, 300, 300]


def test_a_container_that_ran_for_long_is_restarted_at_once() -> None:
    old = containers.Backoff("nginx/None", 160, make.NOW - 601)
    ended = make.run(state="exited", exit_code=1, finished_at=make.NOW)
    found = step(make.pod(), make.runtime(ended), steps.Waits({"app": old}))
    (operation,) = found.operations
    assert isinstance(operation, steps.StartContainer)
    assert operation.backoff == containers.Backoff("nginx/None", 10, make.NOW)


def test_nothing_waits_for_a_clock_that_was_put_back() -> None:
    now = make.NOW - 3600
    ended = make.runtime(make.run(state="exited", exit_code=1, finished_at=make.NOW))
    waits = steps.Waits({"app": containers.Backoff("nginx/None", 300, make.NOW)})
    assert kinds(step(make.pod(), ended, waits)) == ["BackOff"]
    assert starts(step(make.pod(), ended, waits, now)) == ["app"]
    waits = steps.Waits(retries={"app": make.NOW + 300, steps.SANDBOX: make.NOW + 300})
    assert starts(step(make.pod(), ended, waits)) == []
    assert starts(step(make.pod(), ended, waits, now)) == ["app"]
    assert kinds(step(make.pod(), make.nothing(), waits, now))[0] == "CreateSandbox"


def test_another_image_is_tried_at_once() -> None:
    old = containers.Backoff("broken/None", 160, make.NOW)
    ended = make.run(state="exited", exit_code=1, finished_at=make.NOW)
    assert starts(step(make.pod(), make.runtime(ended), steps.Waits({"app": old}))) == ["app"]


def test_an_init_container_in_back_off_holds_up_what_follows_and_a_sidecar_does_not() -> None:
    sidecar = make.container("proxy", restartPolicy="Always")
    pod = make.pod(initContainers=[sidecar], containers=[make.container("app")])
    waits = steps.Waits({"proxy": containers.Backoff("nginx/None", 10, make.NOW)})
    crashed = make.run("proxy", "exited", exit_code=1, finished_at=make.NOW)
    ended = make.run("app", "exited", exit_code=1, finished_at=make.NOW, created_at=make.NOW)
    running = make.runtime(crashed, ended, make.run("app", attempt=1))
    assert kinds(step(pod, running, waits)) == ["BackOff"]


def test_a_start_that_failed_is_not_tried_again_before_its_time() -> None:
    waits = steps.Waits(retries={"app": make.NOW + 10})
    found = step(make.pod(), make.runtime(), waits)
    assert found == steps.Step((), make.NOW + 10)
    assert starts(step(make.pod(), make.runtime(), waits, make.NOW + 10)) == ["app"]


def test_a_sandbox_that_failed_is_not_tried_again_before_its_time() -> None:
    waits = steps.Waits(retries={steps.SANDBOX: make.NOW + 10})
    assert step(make.pod(), make.nothing(), waits) == steps.Step((), make.NOW + 10)


def test_the_message_of_a_crash_loop_names_delay_container_and_pod() -> None:
    operation = steps.BackOff("app", 80, make.NOW)
    error = steps.crash_loop(make.pod(), operation)
    assert error.reason == "CrashLoopBackOff"
    assert error.message == ("back-off 1m20s restarting failed container=app pod=web_shop(uid-web)")


# Stopping.


def test_sidecars_are_stopped_after_the_containers_and_in_reverse_order() -> None:
    spec = make.pod(
        initContainers=[
            make.container("one"),
            make.container("proxy", restartPolicy="Always"),
            make.container("log", restartPolicy="Always"),
        ],
        containers=[make.container("app"), make.container("web")],
    )["spec"]
    order = steps.stop_order(spec, ["proxy", "log", "app", "web"])
    assert order == [["app", "web"], ["log"], ["proxy"]]
    assert steps.stop_order(spec, ["proxy"]) == [["proxy"]]
    assert steps.stop_order(spec, []) == []
