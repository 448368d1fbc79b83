"""The plugins that ship with the scheduler: one file a plugin, named as upstream's.

`BUILT` is what a profile can name; a plugin that takes arguments has a `from_arguments`. Plugins of
the stock scheduler that aren't here yet (DynamicResources) come as files beside these and lines
below; until then `whipstaff.scheduler.unsupported` keeps pods that need them from being placed.

Answers to `pkg/scheduler/framework/plugins/registry.go`.
"""

from whipstaff.scheduler import framework
from whipstaff.scheduler.plugins import (
    defaultpreemption,
    imagelocality,
    interpodaffinity,
    nodeaffinity,
    nodedeclaredfeatures,
    nodename,
    nodeports,
    noderesourcesbalancedallocation,
    noderesourcesfit,
    nodeunschedulable,
    nodevolumelimits,
    podtopologyspread,
    prioritysort,
    schedulinggates,
    tainttoleration,
    volumebinding,
    volumerestrictions,
    volumezone,
)

BUILT: dict[str, type[framework.Plugin]] = {
    plugin.name: plugin
    for plugin in (
        schedulinggates.SchedulingGates,
        prioritysort.PrioritySort,
        nodeunschedulable.NodeUnschedulable,
        nodename.NodeName,
        tainttoleration.TaintToleration,
        nodeaffinity.NodeAffinity,
        nodeports.NodePorts,
        noderesourcesfit.NodeResourcesFit,
        volumerestrictions.VolumeRestrictions,
        nodevolumelimits.NodeVolumeLimits,
        volumebinding.VolumeBinding,
        volumezone.VolumeZone,
        podtopologyspread.PodTopologySpread,
        interpodaffinity.InterPodAffinity,
        defaultpreemption.DefaultPreemption,
        noderesourcesbalancedallocation.NodeResourcesBalancedAllocation,
        imagelocality.ImageLocality,
        nodedeclaredfeatures.NodeDeclaredFeatures,
    )
}
