"""Topology domains: sums over the nodes that have the same value of a label.

No loop runs here: pure functions on the snapshot's label columns. Domains have the codes that the
snapshot gives the label's values; code 0 stands for the nodes without the label and isn't one.

Answers to the maps by topology pair in upstream's `podtopologyspread` and `interpodaffinity`.
"""

import numpy as np
import numpy.typing as npt

from whipstaff.scheduler import framework, snapshot

Domains = npt.NDArray[np.int32]


def codes(key: str, cluster: snapshot.Snapshot) -> Domains:
    """(nodes,): the domain of each node for a topology key, all 0 if no node has it."""
    found = cluster.label_codes(key)
    return np.zeros(len(cluster), np.int32) if found is None else found


def count(codes: Domains) -> int:
    """How many entries an array by code has: one more than the highest code of `codes` (nodes,)."""
    return int(codes.max(initial=0)) + 1


def sums(codes: Domains, amounts: npt.NDArray[np.integer]) -> framework.Int64s:
    """(domains,): the amounts (nodes,) added up by code, for codes (nodes,).

    At code 0 are those of the nodes without the label. Exact for sums below 2**53.
    """
    return np.bincount(codes, amounts, minlength=1).astype(np.int64)


def present(codes: Domains, nodes: framework.Mask | None) -> framework.Mask:
    """(domains,): which have one of the nodes (nodes,), None meaning all; code 0 never has."""
    found = np.zeros(count(codes), np.bool_)
    found[codes if nodes is None else codes[nodes]] = True
    found[0] = False
    return found
