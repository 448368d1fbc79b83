"""Volumes of what a real API server holds, with the rights of a node and no more."""

from __future__ import annotations

import contextlib
import pathlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import node_agent_builders as make
import node_agent_volumes as volume_bench
import pytest

from whipstaff.cluster import testing
from whipstaff.node_agent import references, tokens, volumes
from whipstaff.node_agent.volumes import bundles, mounting
from whipstaff.runtime import client, config, errors, resources

pytestmark = [pytest.mark.apiserver, pytest.mark.cluster, volume_bench.needs_root]

Object = dict[str, Any]


class Bench:
    """A node with its own identity, and an administrator."""

    def __init__(
        self, admin: client.Client, node: client.Client, name: str, space: str, root: pathlib.Path
    ) -> None:
        self.admin = admin
        self.node_name = name
        self.namespace = space
        self.root = root
        self.references = references.References(node, lambda _: None)
        self.manager = volumes.Manager(
            root,
            self.references,
            tokens.Tokens(node, time.time),
            lambda: None,
            lambda: {"memory": 1 << 30},
            time.time,
            node,
        )

    async def pod(self, source: Object, **spec: Any) -> Object:
        """A pod on the node whose one container mounts one volume."""
        mount = {"name": "data", "mountPath": "/data"}
        body = {
            "metadata": {"name": f"pod-{uuid.uuid4().hex[:6]}"},
            "spec": {
                "nodeName": self.node_name,
                "containers": [make.container("app", volumeMounts=[mount])],
                "volumes": [{"name": "data", **source}],
                **spec,
            },
        }
        return await self.admin.create(resources.PODS, body, self.namespace)

    async def mount(self, pod: Object, volume: str = "data") -> pathlib.Path:
        await self.manager.ensure(pod, (), ())
        found = await self.manager.mounts(pod, pod["spec"]["containers"][0], {})
        wanted = pod["spec"]["containers"][0]["volumeMounts"]
        (path,) = [m["mountPath"] for m in wanted if m["name"].startswith(volume)]
        return next(pathlib.Path(m.host_path) for m in found if m.container_path == path)

    async def fails(self, pod: Object) -> str:
        with pytest.raises(volumes.VolumeError) as caught:
            await self.manager.ensure(pod, (), ())
        return str(caught.value)

    async def bound(self, **spec: Any) -> str:
        """A claim bound to a new volume of this node; gives its name."""
        name = spec.pop("name", f"claim-{uuid.uuid4().hex[:6]}")
        size = {"storage": "1Gi"}
        common = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "volumeMode": "Filesystem",
        }
        wanted = {**common, "volumeName": name, "resources": {"requests": size}}
        claim = await self.admin.create(
            resources.PERSISTENTVOLUMECLAIMS,
            {"metadata": {"name": name}, "spec": wanted},
            self.namespace,
        )
        reference = {
            "kind": "PersistentVolumeClaim",
            "namespace": self.namespace,
            "name": name,
            "uid": spec.pop("uid", claim["metadata"]["uid"]),
        }
        terms = [{"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}]
        volume = {
            **common,
            "capacity": size,
            "claimRef": reference,
            "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
            "persistentVolumeReclaimPolicy": "Retain",
            **spec,
        }
        await self.admin.create(
            resources.PERSISTENTVOLUMES, {"metadata": {"name": name}, "spec": volume}
        )
        await self.admin.patch(
            resources.PERSISTENTVOLUMECLAIMS,
            name,
            {"status": {"phase": "Bound"}},
            self.namespace,
            subresource="status",
        )
        return name

    async def clean(self) -> None:
        await self.references.close()
        mounting.unmount_all(self.root)
        for volume in await self.admin.list(resources.PERSISTENTVOLUMES):
            with contextlib.suppress(errors.NotFound):
                await self.admin.delete(resources.PERSISTENTVOLUMES, volume["metadata"]["name"])


@contextlib.asynccontextmanager
async def running(
    plane: testing.ControlPlane, namespace: str, root: pathlib.Path
) -> AsyncIterator[Bench]:
    name = f"node-{uuid.uuid4().hex[:6]}"
    own = plane.issue_kubeconfig(f"system:node:{name}", ["system:nodes"])
    async with (
        client.Client(config.load(str(plane.kubeconfig))) as admin,
        client.Client(config.load(str(own))) as node,
    ):
        account = {"metadata": {"name": "default"}}
        with contextlib.suppress(errors.AlreadyExists):
            await admin.create(resources.SERVICEACCOUNTS, account, namespace)
        made = Bench(admin, node, name, namespace, root)
        try:
            yield made
        finally:
            await made.clean()


@pytest.fixture
async def bench(
    apiserver: testing.ControlPlane, namespace: str, tmp_path: pathlib.Path
) -> AsyncIterator[Bench]:
    async with running(apiserver, namespace, tmp_path / "root") as made:
        yield made


@pytest.fixture(scope="module")
def complete(apiserver: testing.ControlPlane) -> Iterator[testing.ControlPlane]:
    """A control plane with admission, and with ClusterTrustBundles."""
    flags = (
        "--runtime-config=certificates.k8s.io/v1beta1=true",
        "--feature-gates=ClusterTrustBundle=true,ClusterTrustBundleProjection=true",
    )
    with testing.ControlPlane(apiserver_flags=flags, admission=True) as plane:
        yield plane


class TestClaims:
    async def test_a_directory_of_the_node_is_mounted(
        self, bench: Bench, tmp_path: pathlib.Path
    ) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        (disk / "file").write_text("kept")
        name = await bench.bound(local={"path": str(disk)})
        claim = {"persistentVolumeClaim": {"claimName": name}}
        pod = await bench.pod(claim, securityContext={"fsGroup": 4321})
        path = await bench.mount(pod)
        assert path == bench.root.joinpath(
            "pods", pod["metadata"]["uid"], "volumes/kubernetes.io~local-volume", name
        )
        assert (path / "file").read_text() == "kept"
        assert (path / "file").stat().st_gid == 4321
        usage = (await bench.manager.usage(pod["metadata"]["uid"]))["data"]
        assert (usage.claim, usage.ephemeral) == (name, False)
        await bench.manager.ensure(pod, (), ())
        assert len(mounting.mount_points(str(bench.root))) == 1
        await bench.manager.teardown(pod["metadata"]["uid"])
        assert (disk / "file").read_text() == "kept"
        assert not path.exists()

    async def test_a_claim_may_be_for_reading_only(
        self, bench: Bench, tmp_path: pathlib.Path
    ) -> None:
        (tmp_path / "disk").mkdir()
        name = await bench.bound(local={"path": str(tmp_path / "disk")})
        claim = {"persistentVolumeClaim": {"claimName": name, "readOnly": True}}
        pod = await bench.pod(claim, securityContext={"fsGroup": 4321})
        path = await bench.mount(pod)
        with pytest.raises(OSError, match="Read-only"):
            (path / "file").touch()
        (mount,) = await bench.manager.mounts(pod, pod["spec"]["containers"][0], {})
        assert mount.readonly
        assert path.stat().st_gid == 0

    async def test_a_second_pod_does_not_take_it_from_the_first(
        self, bench: Bench, tmp_path: pathlib.Path
    ) -> None:
        (tmp_path / "disk").mkdir()
        name = await bench.bound(local={"path": str(tmp_path / "disk")})
        claim = {"persistentVolumeClaim": {"claimName": name}}
        first = await bench.pod(claim, securityContext={"fsGroup": 4321})
        second = await bench.pod(claim, securityContext={"fsGroup": 99})
        await bench.mount(first)
        assert (await bench.mount(second)).stat().st_gid == 4321
        for pod in (first, second):
            await bench.manager.teardown(pod["metadata"]["uid"])
        assert (await bench.mount(second)).stat().st_gid == 99

    async def test_a_host_path_may_be_claimed(self, bench: Bench, tmp_path: pathlib.Path) -> None:
        where = {"path": str(tmp_path / "made"), "type": "DirectoryOrCreate"}
        name = await bench.bound(hostPath=where)
        pod = await bench.pod({"persistentVolumeClaim": {"claimName": name}})
        assert await bench.mount(pod) == tmp_path / "made"
        assert (tmp_path / "made").is_dir()

    async def test_what_cannot_be_had_is_said_as_the_kubelet_says_it(
        self, bench: Bench, tmp_path: pathlib.Path
    ) -> None:
        prefix = (
            "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], "
            f"failed to process volumes=[data]: error processing PVC {bench.namespace}/"
        )
        pod = await bench.pod({"persistentVolumeClaim": {"claimName": "no"}})
        told = await bench.fails(pod)
        assert told == (
            f"{prefix}no: failed to fetch PVC from API server: "
            'persistentvolumeclaims "no" not found'
        )
        name = await bench.bound(local={"path": "/tmp"}, uid="another")
        pod = await bench.pod({"persistentVolumeClaim": {"claimName": name}})
        told = await bench.fails(pod)
        assert f"found PV object {name} but its pv.Spec.ClaimRef.UID another does not" in told
        name = await bench.bound(local={"path": "/tmp"})
        pending = {"status": {"phase": "Pending"}}
        await bench.admin.patch(
            resources.PERSISTENTVOLUMECLAIMS, name, pending, bench.namespace, subresource="status"
        )
        pod = await bench.pod({"persistentVolumeClaim": {"claimName": name}})
        assert await bench.fails(pod) == f"{prefix}{name}: PVC is not bound"

    async def test_a_kind_that_needs_a_driver_is_refused(self, bench: Bench) -> None:
        name = await bench.bound(csi={"driver": "x", "volumeHandle": "y"})
        pod = await bench.pod({"persistentVolumeClaim": {"claimName": name}})
        assert "volumes of CSI aren't supported by this node" in await bench.fails(pod)

    async def test_a_directory_that_there_is_not_is_said(
        self, bench: Bench, tmp_path: pathlib.Path
    ) -> None:
        name = await bench.bound(local={"path": str(tmp_path / "no")})
        pod = await bench.pod({"persistentVolumeClaim": {"claimName": name}})
        assert await bench.fails(pod) == (
            f'MountVolume.SetUp failed for volume "{name}" : '
            f'path "{tmp_path / "no"}" does not exist'
        )

    async def test_a_devices_claim_is_no_directory(self, bench: Bench) -> None:
        name = await bench.bound(local={"path": "/dev/null"})
        pod = await bench.pod({"persistentVolumeClaim": {"claimName": name}})
        assert "only directory and block device are supported" in await bench.fails(pod)

    async def test_a_claim_of_the_pods_own_must_be_its_own(
        self, bench: Bench, tmp_path: pathlib.Path
    ) -> None:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        pod = await bench.pod({"ephemeral": {"volumeClaimTemplate": {"spec": spec}}})
        name = f"{pod['metadata']['name']}-data"
        (tmp_path / "disk").mkdir()
        local = {"path": str(tmp_path / "disk")}
        claim = await bench.bound(local=local, name=name)
        told = await bench.fails(pod)
        assert told.endswith(
            f"PVC {bench.namespace}/{name} was not created for pod "
            f"{bench.namespace}/{pod['metadata']['name']} (pod is not owner)"
        )
        owner = {
            "apiVersion": "v1", "kind": "Pod", "controller": True,
            "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"],
        }  # fmt: skip
        await bench.admin.patch(
            resources.PERSISTENTVOLUMECLAIMS,
            name,
            {"metadata": {"ownerReferences": [owner]}},
            bench.namespace,
        )
        assert (await bench.mount(pod)).name == claim


class TestRights:
    async def test_a_pod_finds_its_token_and_the_clusters_certificate(
        self, complete: testing.ControlPlane, tmp_path: pathlib.Path
    ) -> None:
        async with running(complete, "default", tmp_path / "root") as bench:
            body = {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "CA"}}
            await bench.admin.create(resources.CONFIGMAPS, body, "default")
            pod = await bench.pod({"emptyDir": {}})
            # The API server's admission has added the volume that every pod has.
            path = await bench.mount(pod, "kube-api-access")
            assert (path / "ca.crt").read_text() == "CA"
            assert (path / "namespace").read_text() == "default"
            assert (path / "token").read_text().count(".") == 2
            uid = pod["metadata"]["uid"]
            assert (bench.manager.refresh_at(uid) or 0.0) > time.time()
            await bench.manager.teardown(uid)
            assert bench.manager.refresh_at(uid) is None

    async def test_a_pods_secrets_are_those_of_its_namespace(
        self, apiserver: testing.ControlPlane, bench: Bench
    ) -> None:
        space = f"other-{uuid.uuid4().hex[:6]}"
        apiserver.create_namespace(space)
        try:
            secret = {"metadata": {"name": "key"}, "stringData": {"key": "theirs"}}
            await bench.admin.create(resources.SECRETS, secret, space)
            pod = await bench.pod({"secret": {"secretName": "key"}})
            assert await bench.fails(pod) == (
                'MountVolume.SetUp failed for volume "data" : secret "key" not found'
            )
            # Even one who could change the pod on its way to the node would not get it.
            pod["metadata"]["namespace"] = space
            pod["metadata"]["uid"] = "forged"
            told = await bench.fails(pod)
            assert "theirs" not in told
            assert not list(bench.root.glob("pods/forged/**/key"))
        finally:
            apiserver.delete_namespace(space)

    async def test_another_pods_token_is_not_given_out(self, bench: Bench) -> None:
        source = {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
        pod = await bench.pod(source, serviceAccountName="default")
        pod["spec"]["serviceAccountName"] = "other"
        other = {"metadata": {"name": "other"}}
        await bench.admin.create(resources.SERVICEACCOUNTS, other, bench.namespace)
        assert "failed to fetch token: " in await bench.fails(pod)


class TestBundles:
    async def test_certificates_are_shown_by_name_and_by_signer(
        self, complete: testing.ControlPlane, tmp_path: pathlib.Path
    ) -> None:
        async with running(complete, "default", tmp_path / "root") as bench:
            for name in ("one", "two"):
                pem = certificate(name)
                await bench.admin.create(
                    bundles.CLUSTERTRUSTBUNDLES,
                    {
                        "metadata": {"name": f"example.com:mesh:{name}", "labels": {"n": name}},
                        "spec": {
                            "signerName": "example.com/mesh",
                            "trustBundle": f"# {name}\n{pem}",
                        },
                    },
                )
            selector = {"matchLabels": {"n": "two"}}
            signer = {"signerName": "example.com/mesh"}
            for source, expected in [
                ({"name": "example.com:mesh:one"}, [certificate("one")]),
                (signer | {"labelSelector": selector}, [certificate("two")]),
                (signer | {"labelSelector": {}}, [certificate("one"), certificate("two")]),
                ({"name": "nobody", "optional": True}, []),
            ]:
                bundle = {"clusterTrustBundle": {"path": "ca.pem", **source}}
                pod = await bench.pod({"projected": {"sources": [bundle]}})
                found = (await bench.mount(pod) / "ca.pem").read_text()
                assert sorted(found) == sorted("".join(expected))
                assert bench.manager.refresh_at(pod["metadata"]["uid"]) is not None
            bundle = {"clusterTrustBundle": {"path": "ca.pem", "name": "nobody"}}
            pod = await bench.pod({"projected": {"sources": [bundle]}})
            assert await bench.fails(pod) == (
                'MountVolume.SetUp failed for volume "data" : while getting ClusterTrustBundle: '
                'clustertrustbundles.certificates.k8s.io "nobody" not found'
            )


def certificate(name: str) -> str:
    """A certificate authority of its own, always the same for a name."""
    if name not in _certificates:
        _certificates[name] = _new_certificate(name)
    return _certificates[name]


_certificates: dict[str, str] = {}


def _new_certificate(name: str) -> str:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509 import oid

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, name)])
    start = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()
