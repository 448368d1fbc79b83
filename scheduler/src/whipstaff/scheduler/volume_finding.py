"""Volumes for a pod's claims, on every node at once.

No loop runs here: pure functions over a snapshot and its storage. For each node: do the volumes of
claims that are bound already reach it, and can each claim that waits for its pod have a volume
there, one that exists or one that a driver would make? A claim gets the smallest volume that
suits; what an earlier claim of the same pod gets, a later one can't.

Nodes are positions here, indices into the rows that were asked about. A volume that only some
values of one label reach (a local disk, a zone) finds its positions in a table made once a search,
so ten thousand local disks on five thousand nodes are ten thousand look-ups.

Answers to `FindPodVolumes` and what it calls in
`pkg/scheduler/framework/plugins/volumebinding/binder.go` and to `FindMatchingVolume` in
`k8s.io/component-helpers/storage/volume/pv_helpers.go`. Among volumes of one size the one whose
name comes first is taken; upstream takes any.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from whipstaff.runtime import selectors
from whipstaff.scheduler import framework, snapshot, storage_objects
from whipstaff.scheduler.storage_objects import Claim, Volume

PLUGIN = "VolumeBinding"

NODE_CONFLICT = "node(s) didn't match PersistentVolume's node affinity"
BIND_CONFLICT = "node(s) didn't find available persistent volumes to bind"
NOT_ENOUGH_SPACE = "node(s) did not have enough free storage"
VOLUME_MISSING = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"

Positions = npt.NDArray[np.intp]
Numbers = npt.NDArray[np.int32]

_FINE, _CONFLICT, _MISSING = 0, 1, 2  # of bound claims
_UNBOUND, _NO_SPACE = 1, 2  # of waiting ones, beside _FINE

TEXTS: tuple[tuple[str, ...], ...] = tuple(
    tuple(
        text
        for text, holds in (
            (NODE_CONFLICT, bound == _CONFLICT),
            (BIND_CONFLICT, waiting == _UNBOUND),
            (NOT_ENOUGH_SPACE, waiting == _NO_SPACE),
            (VOLUME_MISSING, bound == _MISSING),
        )
        if holds
    )
    for bound in (_FINE, _CONFLICT, _MISSING)
    for waiting in (_FINE, _UNBOUND, _NO_SPACE)
)
"""What can be wrong with a node, by `Found.problems`."""

_FEW = 8
"""So many positions are gone through one by one: NumPy costs more than that."""


@dataclasses.dataclass(frozen=True, slots=True)
class PodClaims:
    """A pod's claims: those that are bound, and those that wait for it to have a node."""

    bound: tuple[Claim, ...] = ()
    waiting: tuple[Claim, ...] = ()


@dataclasses.dataclass(slots=True)
class Found:
    """What there is on each node. Arrays are (rows,)."""

    problems: npt.NDArray[np.int8]
    """An index into `TEXTS`; 0 where all is well."""
    choices: list[tuple[Claim, Numbers]]
    """For each claim that waits the number of its volume, -1 for none: they index `volumes`."""
    provisions: list[tuple[Claim, framework.Mask]]
    """For each claim that waits where a volume would be made for it."""
    volumes: list[Volume]


def find(claims: PodClaims, cluster: snapshot.Snapshot, rows: framework.Rows) -> Found:
    """Looks for volumes on `rows`.

    Raises:
        framework.PluginError: a claim's class is gone, or a volume can't be read.
    """
    search = _Search(cluster, rows)
    bound = search.check_bound(claims.bound)
    waiting, choices, provisions = search.look_for(claims.waiting)
    return Found(3 * bound + waiting, choices, provisions, search.volumes)


def reaches(volume: Volume, node_name: str, cluster: snapshot.Snapshot) -> bool:
    """Whether one node reaches a volume; False if there is no such node. Raises as `find` does."""
    row = cluster.row_of.get(node_name)
    return row is not None and bool(_Search(cluster, np.array([row])).reached(volume)[0])


class _Search:
    """One look at some rows. `volumes` are those that were given to claims, by their numbers."""

    def __init__(self, cluster: snapshot.Snapshot, rows: framework.Rows) -> None:
        self._cluster = cluster
        self._rows = rows
        self._indices: Positions = np.arange(len(cluster))[rows]
        self._size = len(self._indices)
        self._everywhere: Positions = np.arange(self._size)
        self._nowhere = self._everywhere[:0]
        self._tables: dict[str, dict[int, Positions]] = {}
        self._numbers: dict[str, int] = {}
        self.volumes: list[Volume] = []

    # Claims that are bound

    def check_bound(self, claims: Sequence[Claim]) -> npt.NDArray[np.int8]:
        """What is wrong with the volumes of bound claims; the first that is wrong counts."""
        problems = np.zeros(self._size, np.int8)
        for claim in claims:
            open_ = problems == _FINE
            if not np.count_nonzero(open_):
                break
            volume = self._cluster.storage.volume(claim.volume_name)
            if volume is None:
                problems[open_] = _MISSING
            else:
                problems[open_ & ~self.reached(volume)] = _CONFLICT
        return problems

    def reached(self, volume: Volume) -> framework.Mask:
        """Where the volume can be had; under its driver's labels where its plugin has moved."""
        plugin = volume.plugin
        plain = self._mask(volume.affinity)
        if plugin is None or not plugin.migrates:
            return plain
        known = self._cluster.storage
        names = (self._cluster.names[row] for row in self._indices.tolist())
        csi_nodes = (known.csi_node(name) for name in names)
        moved = np.fromiter(
            (node is not None and plugin.name in node.migrated for node in csi_nodes), np.bool_
        )
        if not np.count_nonzero(moved):
            return plain
        try:
            translated = volume.migrated_affinity()
        except ValueError as error:
            raise framework.PluginError(PLUGIN, f"could not translate pv: {error}") from error
        return np.where(moved, self._mask(translated), plain)

    # Claims that wait

    def look_for(
        self, claims: Sequence[Claim]
    ) -> tuple[
        npt.NDArray[np.int8], list[tuple[Claim, Numbers]], list[tuple[Claim, framework.Mask]]
    ]:
        """What is wrong, which volumes are chosen, and where one would be made."""
        problems = np.zeros(self._size, np.int8)
        settled = [claim for claim in claims if claim.selected_node is not None]
        for claim in settled:
            node = self._cluster.row_of.get(claim.selected_node or "", -1)
            problems[self._indices != node] = _UNBOUND
        open_ = problems == _FINE
        choices: list[tuple[Claim, Numbers]] = []
        wanted = [(claim, open_) for claim in settled]
        free = [claim for claim in claims if claim.selected_node is None]
        for claim in sorted(free, key=lambda claim: claim.requested or 0):
            choice = self._choose(claim, open_, choices)
            choices.append((claim, choice))
            wanted.append((claim, open_ & (choice < 0)))
        provisions = []
        for claim, where in wanted:
            asked = where & (problems == _FINE)
            provisions.append((claim, asked))
            if np.count_nonzero(asked):
                problems[asked] = self._provision(claim)[asked]
        return problems, choices, provisions

    def _choose(
        self, claim: Claim, open_: framework.Mask, earlier: list[tuple[Claim, Numbers]]
    ) -> Numbers:
        """The number of the volume that the claim gets at each position, -1 where it gets none."""
        choice = np.full(self._size, -1, np.int32)
        left = open_.copy()
        suiting = [
            volume for volume in self._cluster.storage.candidates(claim) if _suits(volume, claim)
        ]
        for volume in suiting:
            if volume.is_for(claim):
                # Whoever made it meant it for this claim: this one, or none.
                self._give(volume, self._reach(volume.affinity), left, choice, earlier)
                left &= self._is_taken(volume, earlier)
        free = [volume for volume in suiting if _is_available(volume, claim)]
        for volume in sorted(free, key=lambda volume: (volume.capacity, volume.name)):
            places = self._reach(volume.affinity)
            self._give(volume, places, left, choice, earlier)
            if len(places) > _FEW and not np.count_nonzero(left):
                break
        return choice

    def _give(
        self,
        volume: Volume,
        places: Positions,
        left: framework.Mask,
        choice: Numbers,
        earlier: list[tuple[Claim, Numbers]],
    ) -> None:
        """Gives the volume to the claim where that has none yet and no earlier claim has it."""
        number = self._numbers.get(volume.name)
        if number is None:
            number = self._numbers[volume.name] = len(self.volumes)
            self.volumes.append(volume)
        if len(places) <= _FEW:
            for place in places.tolist():
                if left[place] and all(other[place] != number for _, other in earlier):
                    left[place], choice[place] = False, number
            return
        can = left[places]
        for _, other in earlier:
            can &= other[places] != number
        given = places[can]
        left[given], choice[given] = False, number

    def _is_taken(self, volume: Volume, earlier: list[tuple[Claim, Numbers]]) -> framework.Mask:
        number = self._numbers[volume.name]
        taken = np.zeros(self._size, np.bool_)
        for _, other in earlier:
            taken |= other == number
        return taken

    def _provision(self, claim: Claim) -> npt.NDArray[np.int8]:
        """Where a volume can be made for the claim."""
        known = self._cluster.storage
        if not claim.class_name:
            raise framework.PluginError(PLUGIN, f'no class for claim "{claim.key}"')
        found = known.storage_class(claim.class_name)
        if found is None:
            text = f'failed to find storage class "{claim.class_name}"'
            raise framework.PluginError(PLUGIN, text)
        if found.provisioner in ("", storage_objects.NO_PROVISIONER):
            return np.full(self._size, np.int8(_UNBOUND))
        problems = np.zeros(self._size, np.int8)
        if found.topologies:
            problems[~self._any_of(found.topologies)] = _UNBOUND
        if claim.requested is not None and known.tracks_capacity(found.provisioner):
            enough = self._has_space(found.name, math.ceil(claim.requested))
            problems[(problems == _FINE) & ~enough] = _NO_SPACE
        return problems

    def _has_space(self, class_name: str, size: int) -> framework.Mask:
        enough = np.zeros(self._size, np.bool_)
        for capacity in self._cluster.storage.capacities(class_name):
            if capacity.limit is not None and capacity.limit >= size and not capacity.nodes.nothing:
                enough[self._where(capacity.nodes.requirements)] = True
        return enough

    # Nodes by their labels

    def _any_of(self, alternatives: Iterable[Sequence[selectors.Requirement]]) -> framework.Mask:
        """Where one of the alternatives holds; one without requirements never does."""
        matched = np.zeros(self._size, np.bool_)
        for requirements in alternatives:
            if requirements:
                matched[self._where(requirements)] = True
        return matched

    def _mask(self, affinity: selectors.NodeSelector | None) -> framework.Mask:
        matched = np.zeros(self._size, np.bool_)
        matched[self._reach(affinity)] = True
        return matched

    def _reach(self, affinity: selectors.NodeSelector | None) -> Positions:
        """Where one of the terms holds. A volume's affinity knows nodes by their labels only."""
        if affinity is None:
            return self._everywhere
        if len(affinity.terms) == 1 and not affinity.terms[0].fields:
            expressions = affinity.terms[0].expressions
            return self._where(expressions) if expressions else self._nowhere
        terms = [
            term.expressions
            for term in affinity.terms
            if all(field.operator == "NotIn" for field in term.fields)
            and (term.expressions or term.fields)
        ]
        matched = np.zeros(self._size, np.bool_)
        for expressions in terms:
            matched[self._where(expressions)] = True
        return np.flatnonzero(matched)

    def _where(self, requirements: Sequence[selectors.Requirement]) -> Positions:
        """Where all of the requirements hold."""
        if len(requirements) == 1 and requirements[0].operator == "In":
            return self._with_label(requirements[0])
        if not requirements:
            return self._everywhere
        matched = np.ones(self._size, np.bool_)
        for requirement in requirements:
            matched &= self._cluster.matches(requirement, self._rows)
        return np.flatnonzero(matched)

    def _with_label(self, requirement: selectors.Requirement) -> Positions:
        table = self._tables.get(requirement.key)
        if table is None:
            table = self._tables[requirement.key] = self._table(requirement.key)
        found = [
            table[code]
            for value in set(requirement.values)
            if (code := self._cluster.label_code(requirement.key, value)) in table
        ]
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else self._nowhere

    def _table(self, key: str) -> dict[int, Positions]:
        """The positions of the nodes that have a label, by the code of its value."""
        column = self._cluster.label_codes(key)
        if column is None:
            return {}
        codes = column[self._rows]
        order = np.argsort(codes, kind="stable")
        values, starts = np.unique(codes[order], return_index=True)
        parts = np.split(order, starts[1:])
        return dict(zip(values.tolist(), parts, strict=True))


def _suits(volume: Volume, claim: Claim) -> bool:
    """Whether the claim could have the volume, were it free, whatever the node."""
    return (
        (volume.claim is None or volume.is_for(claim))
        and volume.capacity >= (claim.requested or 0)
        and volume.mode == claim.mode
        and volume.attributes_class == claim.attributes_class
        and not volume.is_terminating
    )


def _is_available(volume: Volume, claim: Claim) -> bool:
    """Whether the volume, which suits and isn't meant for anybody, can be given to the claim."""
    return (
        volume.claim is None
        and volume.phase == "Available"
        and (claim.selector is None or claim.selector.matches(volume.labels))
        and volume.access_modes.issuperset(claim.access_modes)
    )
