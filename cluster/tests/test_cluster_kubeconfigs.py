"""The user's own kubeconfig: our context comes and goes, everything else stays."""

import datetime
import pathlib
import stat
from typing import Any

import pytest
import yaml

from whipstaff.cluster import certificates, kubeconfigs, layout
from whipstaff.runtime import config, errors

THEIRS: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Config",
    "preferences": {"colors": True},
    "clusters": [{"name": "work", "cluster": {"server": "https://work.example:6443"}}],
    "users": [{"name": "me", "user": {"token": "secret"}}],
    "contexts": [{"name": "work", "context": {"cluster": "work", "user": "me"}}],
    "current-context": "work",
}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> certificates.Pki:
    now = datetime.datetime.now(datetime.UTC)
    return certificates.ensure(tmp_path_factory.mktemp("pki"), now)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "home" / ".kube" / "config"


def add(path: pathlib.Path, folder: pathlib.Path, pki: certificates.Pki) -> tuple[str, str | None]:
    return kubeconfigs.add_to(path, layout.Layout(folder), "https://127.0.0.1:6443", pki)


def test_our_context_becomes_current_and_theirs_stay(
    path: pathlib.Path, tmp_path: pathlib.Path, pki: certificates.Pki
) -> None:
    kubeconfigs.write(path, THEIRS)
    name, previous = add(path, tmp_path / "lab", pki)
    found = kubeconfigs.read(path)
    assert (name, previous) == ("whipstaff-lab", "work")
    assert found["current-context"] == "whipstaff-lab"
    assert [context["name"] for context in found["contexts"]] == ["work", "whipstaff-lab"]
    assert found["users"][0] == THEIRS["users"][0]
    assert found["preferences"] == THEIRS["preferences"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_adding_twice_is_adding_once(
    path: pathlib.Path, tmp_path: pathlib.Path, pki: certificates.Pki
) -> None:
    add(path, tmp_path / "lab", pki)
    once = path.read_bytes()
    assert add(path, tmp_path / "lab", pki) == ("whipstaff-lab", None)
    assert path.read_bytes() == once


def test_taking_it_out_leaves_the_file_as_it_was(
    path: pathlib.Path, tmp_path: pathlib.Path, pki: certificates.Pki
) -> None:
    kubeconfigs.write(path, THEIRS)
    name, previous = add(path, tmp_path / "lab", pki)
    kubeconfigs.remove_from(path, name, previous)
    assert kubeconfigs.read(path) == THEIRS


def test_a_context_chosen_since_stays_current(
    path: pathlib.Path, tmp_path: pathlib.Path, pki: certificates.Pki
) -> None:
    kubeconfigs.write(path, THEIRS)
    name, _ = add(path, tmp_path / "lab", pki)
    kubeconfigs.write(path, {**kubeconfigs.read(path), "current-context": "work"})
    kubeconfigs.remove_from(path, name, "gone")
    assert kubeconfigs.read(path)["current-context"] == "work"


def test_a_file_with_nothing_else_goes_too(
    path: pathlib.Path, tmp_path: pathlib.Path, pki: certificates.Pki
) -> None:
    name, previous = add(path, tmp_path / "lab", pki)
    kubeconfigs.remove_from(path, name, previous)
    assert list(path.parent.iterdir()) == []
    kubeconfigs.remove_from(path, name, previous)


def test_two_clusters_whose_folders_have_one_name_have_two_contexts(
    path: pathlib.Path, tmp_path: pathlib.Path, pki: certificates.Pki
) -> None:
    first, _ = add(path, tmp_path / "a" / "data", pki)
    second, previous = add(path, tmp_path / "b" / "data", pki)
    assert first == "whipstaff-data"
    assert second.startswith("whipstaff-data-")
    assert previous == first
    kubeconfigs.remove_from(path, first, None)
    assert [c["name"] for c in kubeconfigs.read(path)["contexts"]] == [second]


def test_an_entry_of_somebody_else_with_our_name_is_not_touched(
    path: pathlib.Path, tmp_path: pathlib.Path, pki: certificates.Pki
) -> None:
    cluster = {"name": "whipstaff-lab", "cluster": {"server": "https://work.example:6443"}}
    kubeconfigs.write(path, {**THEIRS, "clusters": [cluster]})
    name, _ = add(path, tmp_path / "lab", pki)
    assert name != "whipstaff-lab"
    assert cluster in kubeconfigs.read(path)["clusters"]


def test_a_link_stays_a_link(
    path: pathlib.Path, tmp_path: pathlib.Path, pki: certificates.Pki
) -> None:
    real = kubeconfigs.write(tmp_path / "real", THEIRS)
    path.parent.mkdir(parents=True)
    path.symlink_to(real)
    add(path, tmp_path / "lab", pki)
    assert path.is_symlink()
    assert kubeconfigs.read(real)["current-context"] == "whipstaff-lab"


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ("a: [", "can't be read as a kubeconfig"),
        ("- a", "isn't a kubeconfig but a list"),
        ("contexts: 1", "contexts: isn't a list"),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_named(
    tmp_path: pathlib.Path, contents: str, said: str
) -> None:
    file = tmp_path / "config"
    file.write_text(contents)
    with pytest.raises(errors.ConfigurationError, match=said) as error:
        kubeconfigs.read(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_the_first_file_of_the_variable_is_the_user_s(tmp_path: pathlib.Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    environ = {"KUBECONFIG": f":{first}:{second}", "HOME": str(tmp_path)}
    assert kubeconfigs.user_path(environ) == first
    assert kubeconfigs.user_path({"HOME": str(tmp_path)}) == tmp_path / ".kube" / "config"


def test_a_kubeconfig_is_one_file_with_its_credentials(
    tmp_path: pathlib.Path, pki: certificates.Pki
) -> None:
    document = kubeconfigs.document(
        "lab", "admin", "https://127.0.0.1:1", pki.ca.pair.certificate, pki.admin
    )
    path = kubeconfigs.write(tmp_path / "config", document)
    user = yaml.safe_load(path.read_text())["users"][0]["user"]
    assert set(user) == {"client-certificate-data", "client-key-data"}


def test_our_commands_find_the_scheduler_in_it(
    path: pathlib.Path, tmp_path: pathlib.Path, pki: certificates.Pki
) -> None:
    lab = layout.Layout(tmp_path / "lab")
    scheduler = "https://127.0.0.1:10259"
    kubeconfigs.add_to(path, lab, "https://127.0.0.1:6443", pki, scheduler=scheduler)
    found = config.load(str(path)).extensions["whipstaff"]
    assert found == {"dataDir": str(lab.root), "scheduler": scheduler}
