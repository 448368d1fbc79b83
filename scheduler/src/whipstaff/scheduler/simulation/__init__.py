"""What if: the scheduler's engine over a cluster that stands still, for notebooks and scripts.

No loop runs here, and nothing is ever sent to a cluster but lists. ::

    from whipstaff.scheduler import simulation

    cluster = simulation.Cluster.load("dump.json")      # or Cluster.connect(), for a live one
    placement = simulation.place(cluster, "web.yaml")
    placement.pending, placement.evictions, placement.after.requested
    pandas.DataFrame(placement.rows())

`place` says where pods would go, `drain` what draining nodes would do, `fit` how many more of a pod
there can be, and `compare` what another configuration would make of the same pods. The same
question has the same answer; `seed` is for what chance decides in a cluster.
"""

from whipstaff.scheduler.simulation.clusters import Cluster
from whipstaff.scheduler.simulation.draining import drain
from whipstaff.scheduler.simulation.fitting import fit
from whipstaff.scheduler.simulation.placing import compare, place
from whipstaff.scheduler.simulation.results import (
    Balance,
    Comparison,
    Drain,
    Eviction,
    Fit,
    Outcome,
    Placement,
    Refusal,
    Use,
    balance_of,
)

__all__ = [
    "Balance",
    "Cluster",
    "Comparison",
    "Drain",
    "Eviction",
    "Fit",
    "Outcome",
    "Placement",
    "Refusal",
    "Use",
    "balance_of",
    "compare",
    "drain",
    "fit",
    "place",
]
