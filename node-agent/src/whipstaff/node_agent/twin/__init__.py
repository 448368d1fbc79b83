"""A second node on a machine that has a kubelet: the agent and a containerd of its own, in one pod.

The stock node's containerd can't be shared, for its kubelet ends sandboxes that it doesn't know. So
the pod of a DaemonSet brings another one (`runtime`), in the pod's own mount and process
namespaces: what ends with the pod takes every process and mount of the twin's pods along. What is
the machine's is shared: the network namespace, the CNI configuration with its record of addresses,
and the control groups, in which the twin has a group of its own. `supervisor` keeps containerd and
the agent running; `farewell` is what happens when the pod is told to end.

docs/twin-nodes.md says what a twin can't do, and how networks take two Nodes on one machine.
"""
