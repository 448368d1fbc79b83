"""What containers are told by variables.

`resolver` puts them together: from `field_references`, ConfigMaps and Secrets, `files` in volumes
and `services`, with `expansion` of what refers to others.
"""
