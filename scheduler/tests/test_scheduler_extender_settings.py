"""What a file may say of extenders, and what it is told where that is wrong."""

from typing import Any

import pytest

from whipstaff.scheduler import extender_settings, strict


def read(*extenders: Any) -> tuple[tuple[extender_settings.ExtenderSettings, ...], list[str]]:
    problems: list[str] = []
    found = extender_settings.read(strict.Fields({"extenders": list(extenders)}, "", problems))
    return found, problems


def test_an_extender_is_what_the_file_says() -> None:
    [found], problems = read(
        {
            "urlPrefix": "https://127.0.0.1:8888/prefix",
            "filterVerb": "filter",
            "prioritizeVerb": "prioritize",
            "bindVerb": "bind",
            "preemptVerb": "preempt",
            "weight": 5,
            "enableHTTPS": True,
            "tlsConfig": {"serverName": "gpu", "caData": "UEVN"},
            "httpTimeout": "1m",
            "nodeCacheCapable": True,
            "managedResources": [
                {"name": "example.com/gpu", "ignoredByScheduler": True},
                {"name": "example.com/tpu"},
            ],
            "ignorable": True,
        }
    )
    assert problems == []
    assert found == extender_settings.ExtenderSettings(
        "https://127.0.0.1:8888/prefix",
        "filter",
        "prioritize",
        "bind",
        "preempt",
        5,
        True,
        extender_settings.Tls(server_name="gpu", ca_data=b"PEM"),
        60,
        True,
        frozenset({"example.com/gpu", "example.com/tpu"}),
        ("example.com/gpu",),
        True,
    )
    assert extender_settings.ignored_resources([found]) == ["example.com/gpu"]


def test_a_call_may_take_five_seconds_where_the_file_does_not_say() -> None:
    [found], problems = read({"urlPrefix": "http://x", "httpTimeout": "0s"})
    assert (found.timeout, problems) == (5, [])


@pytest.mark.parametrize(
    ("extender", "problem"),
    [
        ({}, "extenders[0].urlPrefix: is required"),
        (
            {"prioritizeVerb": "prioritize"},
            "extenders[0].weight: must have a positive weight applied to it",
        ),
        (
            {"prioritizeVerb": "prioritize", "weight": -2},
            "extenders[0].weight: must have a positive weight applied to it",
        ),
        (
            {"managedResources": [{"name": "cpu"}]},
            "extenders[0].managedResources[0].name: cpu is an invalid extended resource name",
        ),
        (
            {"managedResources": [{"name": "foo.com/b a"}]},
            "extenders[0].managedResources[0].name: foo.com/b a is an invalid extended resource",
        ),
        (
            {"managedResources": [{"name": "kubernetes.io/foo"}]},
            "extenders[0].managedResources[0].name: kubernetes.io/foo is an invalid",
        ),
        (
            {"managedResources": [{"name": "foo.com/bar"}, {"name": "foo.com/bar"}]},
            "extenders[0].managedResources[1].name: foo.com/bar: duplicate extender managed",
        ),
        ({"filterverb": "x"}, "extenders[0].filterverb: unknown field"),
        ({"tlsConfig": {"caData": "?"}}, "extenders[0].tlsConfig.caData: is not base64"),
        (
            {"tlsConfig": {"insecure": True, "caFile": "/ca"}},
            "extenders[0].tlsConfig.insecure: must be false where there is a caFile or caData",
        ),
        (
            {"tlsConfig": {"certFile": "/crt"}},
            "extenders[0].tlsConfig.certFile: a certificate and its key are needed together",
        ),
        ({"httpTimeout": "-1s"}, "extenders[0].httpTimeout: "),
    ],
)
def test_what_is_wrong_is_named_with_its_path(extender: dict[str, Any], problem: str) -> None:
    prefix = {"urlPrefix": "http://x"} if extender else {}
    _, problems = read({**prefix, **extender})
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_only_one_extender_binds() -> None:
    binder = {"urlPrefix": "http://x", "bindVerb": "bind"}
    _, problems = read(binder, binder)
    assert problems == ["extenders: only one extender can implement bind, found 2"]


def test_two_extenders_may_not_manage_one_resource() -> None:
    extender = {"urlPrefix": "http://x", "managedResources": [{"name": "foo.com/bar"}]}
    _, problems = read(extender, extender)
    assert problems == [
        (
            "extenders[1].managedResources[0].name: foo.com/bar: duplicate extender managed"
            " resource name"
        )
    ]


def test_keys_are_not_shown() -> None:
    settings = extender_settings.ExtenderSettings(
        "http://x", tls=extender_settings.Tls(key_data=b"secret")
    )
    assert "secret" not in repr(settings)
    assert "tlsConfig" not in extender_settings.describe(settings)
