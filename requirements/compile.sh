#!/bin/sh
# Pins every dependency, with hashes, for Python 3.11 and later. Run after changing a pyproject.toml: make requirements
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-uv}
compile() {
    out=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-emit-index-url --annotation-style=line \
        --no-emit-package whipstaff-runtime --no-emit-package whipstaff-scheduler \
        --no-emit-package whipstaff-node-agent --no-emit-package whipstaff-cluster \
        --output-file "requirements/$out" "$@"
}
compile uv.txt requirements/uv.in
compile run.txt pyproject.toml
compile dev.txt pyproject.toml --group pyproject.toml:dev
