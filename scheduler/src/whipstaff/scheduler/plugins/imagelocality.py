"""ImageLocality: nodes that hold the pod's images already needn't pull them.

Answers to `pkg/scheduler/framework/plugins/imagelocality/image_locality.go`.
"""

from collections.abc import Hashable

import numpy as np

from whipstaff.scheduler import framework, pods, snapshot

_MB = 1024 * 1024
MIN_THRESHOLD = 23 * _MB
MAX_CONTAINER_THRESHOLD = 1000 * _MB


class ImageLocality(framework.Plugin):
    """Scores by the size of the images that are there, less for images that few nodes hold."""

    name = "ImageLocality"
    score_reads = framework.Reads.IMAGES

    def sign(self, pod: pods.PodInfo) -> Hashable:  # noqa: ARG002
        """Reads images and the number of containers, which the class key holds."""
        return ()

    def score(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Int64s:
        """0 for less than 23 MB, 100 for 1,000 MB a container and more.

        An image counts by its size times the share of the nodes that hold it, so that a pod isn't
        drawn to the one node that happens to have its image.
        """
        total = np.zeros(cluster.size_of(rows), np.int64)
        for name in pod.images:
            image = cluster.images.get(name)
            if image is None:
                continue
            spread = image.node_count / len(cluster)
            total += int(float(image.size) * spread) * image.held[: len(cluster)][rows]
        highest = MAX_CONTAINER_THRESHOLD * pod.container_count
        bounded = np.clip(total, MIN_THRESHOLD, highest)
        return framework.MAX_NODE_SCORE * (bounded - MIN_THRESHOLD) // (highest - MIN_THRESHOLD)
