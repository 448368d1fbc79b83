"""Pods that the node runs out of files.

`manifests` become pods (with the API's `defaults`), `pods` follows the files and keeps the mirrors
in the API, `mirrors` has the statuses written to them.
"""
