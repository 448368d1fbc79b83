"""Volumes of pods on this machine: made before a pod's sandbox, kept current, taken away after it.

`Manager` is what the rest of the agent knows: `Manager.ensure` before containers start and whenever
something that a volume shows has changed, `Manager.mounts` for each container, `Manager.teardown`
when the last one has ended. The modules below each do one thing: mounts, atomic updates, sub-paths,
ownership, and the kinds of volumes. Answers to ``pkg/kubelet/volumemanager`` and ``pkg/volume``.
Leaves out everything that needs a driver (CSI, FlexVolume) or the network (NFS, iSCSI).
"""

from whipstaff.node_agent.volumes.manager import Manager, VolumeError
from whipstaff.node_agent.volumes.usage import VolumeUsage

__all__ = ["Manager", "VolumeError", "VolumeUsage"]
