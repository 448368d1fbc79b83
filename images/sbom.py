"""Lists what is in an image, as CycloneDX: Python distributions and Debian packages.

Called by ``component`` while an image is built: ``sbom.py NAME PYTHON STATUS_FOLDER``, with the
image's interpreter and the folder with a control file a package. Writes to standard output.
"""

import json
import pathlib
import subprocess
import sys
from email import parser
from typing import Any

from packageurl import PackageURL


def distributions(python: str) -> dict[str, Any]:
    """The document of a Python environment."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", python]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def package(control: pathlib.Path) -> dict[str, Any]:
    """A Debian package as a component."""
    fields = parser.Parser().parsestr(control.read_text())
    name, version, architecture = (fields[key] for key in ("Package", "Version", "Architecture"))
    url = PackageURL("deb", "debian", name, version, {"arch": architecture}).to_string()
    return {
        "bom-ref": url,
        "type": "library",
        "name": name,
        "version": version,
        "purl": url,
        "supplier": {"name": fields["Maintainer"]},
        "description": fields["Description"].splitlines()[0],
    }


def main() -> None:
    """Write the list."""
    name, python, folder = sys.argv[1:]
    document = distributions(python)
    document.setdefault("metadata", {})["component"] = {
        "bom-ref": "image",
        "type": "container",
        "name": f"whipstaff/{name}",
    }
    packages = [package(file) for file in sorted(pathlib.Path(folder).iterdir())]
    document["components"] = [*document.get("components", []), *packages]
    json.dump(document, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
