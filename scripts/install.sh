#!/bin/sh
# Installs the locked dependencies, hashes checked, and Fairtrial itself into .venv.
# uv takes seconds where pip takes two minutes; where uv has no wheel, pip does the same work.
set -eu
pip=".venv/bin/python -m pip install --quiet --disable-pip-version-check"
uv_version=$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.lock)
if $pip "$uv_version" && .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --requirement requirements.lock; then
    :
else
    echo "uv could not install the lock file; installing with pip (about two minutes) ..." >&2
    $pip --require-hashes --requirement requirements.lock
fi
$pip --no-deps --no-build-isolation --editable .
