#!/bin/sh
# Prints the first Python that is 3.11 or newer and can make environments; says what to install if there is none.
set -eu
for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3.14 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 &&
        "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        "$candidate" -c 'import sys; print(sys.executable)'
        exit 0
    fi
done
echo "Fairtrial needs Python 3.11 or newer with venv (Debian, Ubuntu: apt-get install python3 python3-venv;" >&2
echo "macOS: brew install python). Or name one: make PYTHON=/path/to/python3.12 demo" >&2
exit 1
