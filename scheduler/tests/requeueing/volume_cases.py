"""Cases about volumes: claims, classes, drivers and what they say of their room."""

from scheduler.tests.requeueing.cases import (
    BETA_ZONE,
    ZONE,
    Changed,
    Gone,
    New,
    attachment,
    bound,
    capacity,
    case,
    claim,
    csi_driver,
    csi_node,
    made_in,
    node,
    pod,
    reached_from,
    storage_class,
    volume,
)

ONCE = "ReadWriteOncePod"
MANY = "ReadOnlyMany"
WEST, EAST = f"{ZONE}=us-west1-a", f"{ZONE}=us-east1"

IN_WEST = (
    volume("pv1", WEST, mode=MANY),
    claim("pvc1", "pv1", mode=ONCE),
    pod("pod1", on="node", claim="pvc1"),
)
"""A pod on the node of the west, with its volume."""

ZONES = (
    case(
        45,
        "a new volume retries the pods that waited for a volume of their zone",
        "VolumeZone",
        nodes=[node(labels=WEST)],
        there=[*IN_WEST, claim("pvc2", "pv2", mode=ONCE)],
        pods=[pod("pod2", claim="pvc2")],
        changes=[New(volume("pv2", WEST, mode=MANY))],
        requeued="pod2",
    ),
    case(
        46,
        "a volume that moves to another zone retries the pods that it kept out",
        "VolumeZone",
        nodes=[node(labels=WEST)],
        there=[*IN_WEST, volume("pv2", EAST, mode=MANY), claim("pvc2", "pv2", mode=ONCE)],
        pods=[pod("pod2", claim="pvc2")],
        changes=[
            Changed("PersistentVolume", "pv2", {"metadata": {"labels": {ZONE: "us-west1-a"}}})
        ],
        requeued="pod2",
    ),
    case(
        47,
        "a new claim retries the pod that uses it, whatever the zone",
        "VolumeZone",
        nodes=[node(labels=WEST)],
        there=[*IN_WEST, volume("pv2", EAST, mode=MANY)],
        pods=[pod("pod2", claim="pvc2"), pod("pod3", claim="pvc3")],
        changes=[New(claim("pvc2", "pv2", mode=ONCE))],
        requeued="pod2",
    ),
    case(
        48,
        "a claim that is bound retries the pod that uses it, whatever the zone",
        "VolumeZone",
        nodes=[node(labels=WEST)],
        there=[*IN_WEST, volume("pv2", EAST, mode=MANY), claim("pvc2", mode=ONCE)],
        pods=[pod("pod2", claim="pvc2"), pod("pod3", claim="pvc3")],
        changes=[bound("pvc2", "pv2")],
        requeued="pod2",
    ),
    case(
        49,
        "a new class whose volumes wait for their pods retries pods that lack a volume",
        "VolumeZone",
        nodes=[node(labels=WEST)],
        there=[*IN_WEST, claim("pvc2", "pv2", mode=ONCE)],
        pods=[pod("pod2", claim="pvc2")],
        changes=[New(storage_class("sc1"))],
        requeued="pod2",
    ),
    case(
        50,
        "a volume that changes within its zone retries nobody",
        "VolumeZone",
        nodes=[node(labels=WEST)],
        there=[*IN_WEST, volume("pv2", EAST, mode=MANY), claim("pvc2", "pv2", mode=ONCE)],
        pods=[pod("pod2", claim="pvc2")],
        changes=[Changed("PersistentVolume", "pv2", {"metadata": {"labels": {"more": "more"}}})],
        requeued="",
    ),
)

RESTRICTIONS = (
    case(
        51,
        "a new claim for one pod only retries the pod that uses it",
        "VolumeRestrictions",
        nodes=[node()],
        there=[volume("pv1", mode="ReadWriteOnce")],
        pods=[pod("pod1", claim="pvc1"), pod("pod2", claim="pvc2")],
        changes=[New(claim("pvc1", "pv1", mode=ONCE))],
        requeued="pod1",
    ),
    case(
        52,
        "a pod that goes retries the one that waited for its claim",
        "VolumeRestrictions",
        nodes=[node()],
        there=[
            volume("pv1", mode="ReadWriteOnce"),
            claim("pvc1", "pv1", mode=ONCE),
            pod("pod1", on="node", claim="pvc1"),
        ],
        pods=[pod("pod2", claim="pvc1"), pod("pod3", claim="pvc2")],
        changes=[Gone("Pod", "pod1")],
        requeued="pod2",
    ),
)

USES_PVC1 = [pod("pod1", claim="pvc1")]
USES_PVC1_AND_DRIVER = [
    pod(
        "pod1",
        volumes=[
            {"name": "pvc1", "persistentVolumeClaim": {"claimName": "pvc1"}},
            {"name": "volume", "csi": {"driver": "csidriver"}},
        ],
    )
]

BINDING = (
    case(
        53,
        "a new node retries a pod whose volume no node reaches",
        "VolumeBinding",
        nodes=[node(labels=f"{ZONE}=us-east-1b")],
        there=[volume("pv1", mode=MANY, nodes=(ZONE, "us-east-1a")), claim("pvc1", "pv1")],
        pods=USES_PVC1,
        changes=[New(node("node2", f"{ZONE}=us-east-1a"))],
        requeued="pod1",
    ),
    case(
        54,
        "a node's new label retries a pod whose volume no node reaches",
        "VolumeBinding",
        nodes=[node(labels="aaa=bbb")],
        there=[volume("pv1", nodes=("aaa", "ccc")), claim("pvc1", "pv1")],
        pods=USES_PVC1,
        changes=[Changed("Node", "node", {"metadata": {"labels": {"aaa": "ccc"}}})],
        requeued="pod1",
    ),
    case(
        55,
        "a volume made anew retries the pod that uses it",
        "VolumeBinding",
        nodes=[node(labels="aaa=bbb")],
        there=[volume("pv1", nodes=("aaa", "ccc")), claim("pvc1", "pv1")],
        pods=USES_PVC1,
        changes=[Gone("PersistentVolume", "pv1"), New(volume("pv1", nodes=("aaa", "bbb")))],
        requeued="pod1",
    ),
    case(
        56,
        "a volume that changes retries the pod that uses it",
        "VolumeBinding",
        nodes=[node(labels=f"{ZONE}=us-east-1a")],
        there=[volume("pv1", nodes=(BETA_ZONE, "us-east-1a")), claim("pvc1", "pv1")],
        pods=USES_PVC1,
        changes=[
            Changed(
                "PersistentVolume",
                "pv1",
                {"spec": {"nodeAffinity": reached_from(ZONE, "us-east-1a")}},
            )
        ],
        requeued="pod1",
    ),
    case(
        57,
        "a claim made anew retries the pod that uses it",
        "VolumeBinding",
        nodes=[node()],
        there=[volume("pv1", mode=MANY), claim("pvc1", mode=MANY), claim("pvc2", mode=MANY)],
        pods=[pod("pod1", claim="pvc1"), pod("pod2", claim="pvc2")],
        changes=[Gone("PersistentVolumeClaim", "pvc1"), New(claim("pvc1", "pv1", mode=MANY))],
        requeued="pod1",
    ),
    case(
        58,
        "a claim that is bound retries the pod that uses it",
        "VolumeBinding",
        nodes=[node()],
        there=[volume("pv1"), claim("pvc1"), claim("pvc2")],
        pods=[pod("pod1", claim="pvc1"), pod("pod2", claim="pvc2")],
        changes=[bound("pvc1", "pv1")],
        requeued="pod1",
    ),
    case(
        59,
        "a new class retries the pods whose claims couldn't be bound",
        "VolumeBinding",
        nodes=[node()],
        there=[volume("pv1", storage_class="sc1"), claim("pvc1", storage_class="sc1")],
        pods=USES_PVC1,
        changes=[New(storage_class("sc1"))],
        requeued="pod1",
    ),
    case(
        60,
        "a class whose volumes can be made elsewhere retries pods",
        "VolumeBinding",
        nodes=[node(labels=f"{ZONE}=us-west-1a")],
        there=[
            volume("pv1", storage_class="sc1"),
            claim("pvc1", storage_class="sc1"),
            storage_class("sc1", zones=["us-west-1c"]),
        ],
        pods=USES_PVC1,
        changes=[Changed("StorageClass", "sc1", {"allowedTopologies": made_in("us-west-1a")})],
        requeued="pod1",
    ),
    case(
        61,
        "a class that changes otherwise retries nobody",
        "VolumeBinding",
        nodes=[node(labels=f"{ZONE}=us-west-1c")],
        there=[
            volume("pv1", storage_class="sc1"),
            claim("pvc1", storage_class="sc1"),
            storage_class("sc1", zones=["us-west-1a"], labels="key=value"),
        ],
        pods=USES_PVC1,
        changes=[Changed("StorageClass", "sc1", {"metadata": {"labels": {"key": "updated"}}})],
        requeued="",
    ),
    case(
        62,
        "a node's drivers that are new retry pods",
        "VolumeBinding",
        nodes=[node()],
        there=[volume("pv1"), claim("pvc1")],
        pods=USES_PVC1,
        changes=[New(csi_node("node"))],
        requeued="pod1",
    ),
    case(
        63,
        "a node whose drivers take over an in-tree plugin retries pods",
        "VolumeBinding",
        nodes=[node()],
        there=[
            volume("pv1", storage_class="sc1"),
            claim("pvc1", storage_class="sc1"),
            csi_node("node"),
        ],
        pods=USES_PVC1,
        changes=[
            Changed(
                "CSINode",
                "node",
                {
                    "metadata": {
                        "annotations": {"storage.alpha.kubernetes.io/migrated-plugins": "value"}
                    }
                },
            )
        ],
        requeued="pod1",
    ),
    case(
        64,
        "a driver that no longer cares for its room retries the pods that use it",
        "VolumeBinding",
        nodes=[node()],
        there=[volume("pv1"), claim("pvc1"), csi_driver("csidriver", capacity=True)],
        pods=USES_PVC1_AND_DRIVER,
        changes=[Changed("CSIDriver", "csidriver", {"spec": {"storageCapacity": False}})],
        requeued="pod1",
    ),
    case(
        65,
        "a driver that comes to care for its room retries nobody",
        "VolumeBinding",
        nodes=[node()],
        there=[volume("pv1"), claim("pvc1"), csi_driver("csidriver", capacity=False)],
        pods=USES_PVC1_AND_DRIVER,
        changes=[Changed("CSIDriver", "csidriver", {"spec": {"storageCapacity": True}})],
        requeued="",
    ),
    case(
        66,
        "room that a driver comes to offer retries pods",
        "VolumeBinding",
        nodes=[node()],
        there=[
            volume("pv1", storage_class="sc1"),
            claim("pvc1", storage_class="sc1"),
            storage_class("sc1", mode="Immediate"),
        ],
        pods=USES_PVC1,
        changes=[New(capacity("csc", "sc1", "10"))],
        requeued="pod1",
    ),
    case(
        67,
        "more room of a driver's retries pods",
        "VolumeBinding",
        nodes=[node()],
        there=[
            volume("pv1", storage_class="sc1"),
            claim("pvc1", storage_class="sc1"),
            storage_class("sc1", mode="Immediate"),
            capacity("csc", "sc1", "10"),
        ],
        pods=USES_PVC1,
        changes=[Changed("CSIStorageCapacity", "csc", {"capacity": "20"})],
        requeued="pod1",
    ),
    case(
        68,
        "less room of a driver's retries nobody",
        "VolumeBinding",
        nodes=[node()],
        there=[
            volume("pv1"),
            claim("pvc1"),
            storage_class("sc1", mode="Immediate"),
            capacity("csc", "sc1", "10"),
        ],
        pods=USES_PVC1,
        changes=[Changed("CSIStorageCapacity", "csc", {"capacity": "5"})],
        requeued="",
    ),
)

EBS, PD = "ebs.csi.aws.com", "pd.csi.storage.gke.io"

LIMITS = (
    case(
        69,
        "a new node's drivers retry the pods for whose volumes others had no place",
        "NodeVolumeLimits",
        nodes=[node()],
        there=[
            volume("pv1", csi=("csidriver", "handle")),
            claim("pvc1", "pv1"),
            csi_driver("csidriver", capacity=True),
            csi_node("node", csidriver=0),
        ],
        pods=USES_PVC1,
        changes=[New(csi_node("node2"))],
        requeued="pod1",
    ),
    case(
        70,
        "a pod that goes with its volume retries the pods that took one too many",
        "NodeVolumeLimits",
        nodes=[node()],
        there=[
            volume("pv1", csi=("csidriver", "handle1")),
            volume("pv2", csi=("csidriver", "handle2")),
            claim("pvc1", "pv1", mode=ONCE),
            claim("pvc2", "pv2", mode=ONCE),
            csi_driver("csidriver", capacity=True),
            csi_node("node", csidriver=1),
            pod("pod1", on="node", claim="pvc1"),
        ],
        pods=[pod("pod2", claim="pvc2")],
        changes=[Gone("Pod", "pod1")],
        requeued="pod2",
    ),
    case(
        71,
        "a new claim retries the pod that uses it, full node or not",
        "NodeVolumeLimits",
        nodes=[node()],
        there=[
            volume("pv1", csi=("csidriver", "handle1")),
            volume("pv2", csi=("csidriver", "handle2")),
            claim("pvc1", "pv1", mode=ONCE),
            csi_driver("csidriver", capacity=True),
            csi_node("node", csidriver=1),
            pod("pod1", on="node", claim="pvc1"),
        ],
        pods=[pod("pod2", claim="pvc2")],
        changes=[New(claim("pvc2", "pv2", mode=ONCE))],
        requeued="pod2",
    ),
    case(
        72,
        "a volume that is detached retries the pods with claims",
        "",
        nodes=[node()],
        there=[
            volume("pv1", csi=("csidriver", "handle")),
            claim("pvc1", "pv1"),
            attachment("attachment1", "pv1", to="node", by="test.storage.gke.io"),
            csi_driver("csidriver", capacity=True),
            csi_node("node", csidriver=0),
        ],
        pods=USES_PVC1,
        changes=[Gone("VolumeAttachment", "attachment1")],
        requeued="pod1",
    ),
    case(
        73,
        "a disk that is detached retries the pods with in-tree volumes of its driver alone",
        "",
        nodes=[node()],
        there=[
            volume("pv1", csi=(EBS, "handle")),
            volume("pv2", csi=(PD, "handle")),
            claim("pvc1", "pv1"),
            claim("pvc2", "pv2"),
            attachment("attachment1", "pv1", to="node", by=EBS),
            attachment("attachment2", "pv2", to="node", by=PD),
            csi_node("node", ebs_csi_aws_com=0, pd_csi_storage_gke_io=0),
        ],
        pods=[
            pod("pod1", volumes=[{"name": "v", "awsElasticBlockStore": {"volumeID": "pv1"}}]),
            pod("pod2", volumes=[{"name": "v", "gcePersistentDisk": {"pdName": "pv2"}}]),
        ],
        changes=[Gone("VolumeAttachment", "attachment1")],
        requeued="pod1",
    ),
)

CASES = (*ZONES, *RESTRICTIONS, *BINDING, *LIMITS)
