"""What ``/configz`` shows: the settings in force, as a KubeletConfiguration.

Only fields that mean here what they mean there. Pure. Answers to ``pkg/kubelet/apis/config`` in the
form of k8s.io/kubelet ``config/v1beta1``.
"""

from __future__ import annotations

from collections.abc import Sequence

from whipstaff.node_agent import configuration, shutdown_plan, texts
from whipstaff.runtime import objects

Object = objects.Object


def shown(
    settings: configuration.Settings,
    *,
    address: str,
    port: int,
    endpoint: str,
    cluster_dns: Sequence[str],
    cluster_domain: str,
    cgroup_driver: str,
) -> Object:
    """The configuration of a node whose containers run on this machine."""
    timing = settings.timing
    return {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": address,
        "port": port,
        "readOnlyPort": 0,
        "authentication": {
            "x509": {},
            "webhook": {"enabled": True},
            "anonymous": {"enabled": False},
        },
        "authorization": {"mode": "Webhook"},
        "healthzPort": settings.healthz_port,
        "healthzBindAddress": settings.healthz_bind_address,
        "registerNode": True,
        "registerWithTaints": list(settings.taints),
        "clusterDomain": cluster_domain,
        "clusterDNS": list(cluster_dns),
        "resolvConf": settings.resolv_conf,
        "nodeStatusReportFrequency": texts.duration(timing.report_interval),
        "nodeLeaseDurationSeconds": timing.lease_duration,
        "maxPods": settings.pods_per_node,
        "cgroupRoot": settings.cgroup_root,
        "cgroupDriver": cgroup_driver or "cgroupfs",
        "cgroupsPerQOS": True,
        "podLogsDir": settings.pod_logs,
        "registryPullQPS": settings.pulls.qps,
        "registryBurst": settings.pulls.burst,
        "serializeImagePulls": settings.pulls.parallel == 1,
        "maxParallelImagePulls": settings.pulls.parallel or None,
        "eventRecordQPS": settings.event_qps,
        "eventBurst": settings.event_burst,
        "enableServer": True,
        "containerRuntimeEndpoint": endpoint,
        "failCgroupV1": False,
        "enableSystemLogHandler": settings.logs.enabled,
        "enableSystemLogQuery": settings.logs.query,
        **_shutdown(settings.upkeep.shutdown),
    }


def _shutdown(policy: shutdown_plan.Policy) -> Object:
    if policy.by_priority:
        return {
            "shutdownGracePeriodByPodPriority": [
                {"priority": period.priority, "shutdownGracePeriodSeconds": period.seconds}
                for period in policy.periods
            ]
        }
    return {
        "shutdownGracePeriod": texts.duration(policy.grace),
        "shutdownGracePeriodCriticalPods": texts.duration(policy.critical),
    }
