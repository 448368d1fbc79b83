"""Whipstaff's container images, and how they are made without Docker and without a registry."""
