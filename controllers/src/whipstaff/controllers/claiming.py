"""Whose objects are whose: what a controller owns, should adopt and should let go.

Runs no loop and owns nothing; both controllers share it, for ReplicaSets of a Deployment and for
pods of a ReplicaSet. It decides and gives the patches; who sends them first asks the API server
whether the controller itself is still there, see `Claims.adopt`.

Answers to upstream's ``pkg/controller/controller_ref_manager.go``. Leaves out the filters that
upstream passes in: callers give only the children that are up for claiming.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from whipstaff.runtime import objects, selectors

Object: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a controller has to do with its possible children; those of others are left out.

    Attributes:
        owned: the controller's own, and selected by it.
        adopt: without a controller, and selected: to be adopted. Only after a live read has shown
            that the controller exists and isn't being deleted: the copy here may be old.
        release: the controller's own, but not selected any more.
    """

    owned: list[Object]
    adopt: list[Object]
    release: list[Object]


def claim(controller: Object, children: Iterable[Object], selector: selectors.Selector) -> Claims:
    """Sort children by what is to become of them.

    A controller that is being deleted keeps what it has, and neither adopts nor releases: that is
    the garbage collector's then.
    """
    uid, namespace = objects.uid(controller), objects.namespace(controller)
    leaving = objects.is_terminating(controller)
    claims = Claims([], [], [])
    for child in children:
        owner = objects.owner(child)
        if owner is not None and owner["uid"] != uid:
            continue
        selected = selector.matches(child["metadata"].get("labels"))
        if owner is not None and selected:
            claims.owned.append(child)
        elif leaving:
            continue
        elif owner is not None:
            claims.release.append(child)
        elif (
            selected
            and not objects.is_terminating(child)
            and namespace in ("", objects.namespace(child))
        ):
            claims.adopt.append(child)
    return claims


def adoption_patch(controller: Object, child: Object, kind: str, api_version: str) -> Object:
    """The strategic merge patch that makes a child the controller's.

    The uid in it lets the API server refuse when another object has taken the child's name.
    """
    reference = {
        "apiVersion": api_version,
        "kind": kind,
        "name": objects.name(controller),
        "uid": objects.uid(controller),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {"metadata": {"uid": objects.uid(child), "ownerReferences": [reference]}}


def release_patch(controller: Object, child: Object) -> Object:
    """The strategic merge patch that takes the controller's reference off a child."""
    reference = {"$patch": "delete", "uid": objects.uid(controller)}
    return {"metadata": {"uid": objects.uid(child), "ownerReferences": [reference]}}


def controllers_of(child: Object) -> tuple[str]:
    """The index of children by their controller; those without one are under their namespace."""
    owner, namespace = objects.owner(child), objects.namespace(child)
    if owner is None:
        return (sys.intern(namespace),)
    return (sys.intern(f"{namespace}/{owner['kind']}/{owner['name']}/{owner['uid']}"),)


def of_controller(controller: Object, kind: str) -> str:
    """The value of `controllers_of` for the children of a controller."""
    name, namespace = objects.name(controller), objects.namespace(controller)
    return f"{namespace}/{kind}/{name}/{objects.uid(controller)}"
