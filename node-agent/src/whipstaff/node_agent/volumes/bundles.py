"""ClusterTrustBundles: certificates that pods are to trust, for projected volumes.

Read when a volume asks for them, and kept for some minutes: they change rarely, and few clusters
have them. Runs no loop; owns what it has read. Answers to ``pkg/kubelet/clustertrustbundle``.
Leaves out watching them, so that a change reaches pods within `KEEP` seconds, and the order of
certificates that differs from node to node.
"""

from __future__ import annotations

import base64
import binascii
import re
import textwrap
from collections.abc import Callable, Iterable

from whipstaff.runtime import client, errors, objects, resources, selectors

Object = objects.Object

KEEP = 300.0
CLUSTERTRUSTBUNDLES = resources.Resource(
    "certificates.k8s.io", "v1beta1", "clustertrustbundles", "ClusterTrustBundle", namespaced=False
)

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


class BundleError(errors.WhipstaffError):
    """The certificates aren't to be had; the text is upstream's."""


class Bundles:
    """The ClusterTrustBundles that pods have asked for.

    Args:
        api: the client.
        clock: seconds since the epoch.
    """

    def __init__(self, api: client.Client, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._found: dict[str, tuple[float, list[Object]]] = {}

    async def anchors(self, source: Object) -> bytes:
        """The certificates that a ``clusterTrustBundle`` projection asks for, as PEM.

        Raises:
            BundleError: there are none.
        """
        if (name := source.get("name")) is not None:
            found = await self._read(f"metadata.name={name}")
            complaint = f'clustertrustbundles.certificates.k8s.io "{name}" not found'
            complaint = f"while getting ClusterTrustBundle: {complaint}"
        elif (signer := source.get("signerName")) is not None:
            listed = await self._read(f"spec.signerName={signer}")
            selector = selectors.label_selector(source.get("labelSelector"))
            found = [one for one in listed if selector.matches(objects.labels(one))]
            complaint = (
                "combination of signerName and labelSelector matched zero ClusterTrustBundles"
            )
        else:
            text = "ClusterTrustBundle projection requires either name or signerName to be set"
            raise BundleError(text)
        if not found and not source.get("optional"):
            raise BundleError(complaint)
        return _certificates(one["spec"].get("trustBundle") or "" for one in found)

    async def _read(self, selector: str) -> list[Object]:
        kept = self._found.get(selector)
        now = self._clock()
        if kept is not None and now < kept[0]:
            return kept[1]
        try:
            listed = await self._api.list(CLUSTERTRUSTBUNDLES, field_selector=selector)
        except errors.NotFound as error:
            text = "ClusterTrustBundle projection is not supported by the API server"
            raise BundleError(text) from error
        except errors.WhipstaffError as error:
            raise BundleError(f"while getting ClusterTrustBundle: {error}") from error
        if len(self._found) > 256:
            self._found.clear()
        self._found[selector] = (now + KEEP, listed.items)
        return listed.items


def _certificates(bundles: Iterable[str]) -> bytes:
    """All certificates once, without comments, as PEM."""
    try:
        blocks = {base64.b64decode(found) for text in bundles for found in _BLOCK.findall(text)}
    except binascii.Error as error:
        text = f"while normalizing trust anchors: {error}"
        raise BundleError(text) from error
    return "".join(map(_pem, sorted(blocks))).encode()


def _pem(block: bytes) -> str:
    body = "\n".join(textwrap.wrap(base64.b64encode(block).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
