#!/bin/sh
# Find a Python that is new enough, and let it make the environment: scripts/environment.sh run|dev|train|bench|kserve
#
# Only POSIX sh is needed up to here, so that a machine with the wrong Python is told what is missing.
# A Python whose ensurepip works is preferred over a newer one that cannot make a virtual environment by itself.
# PYTHON=/path/to/python chooses one; then no other is tried. Later calls stay with the one that .venv is made from.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" || {
        echo "PYTHON=$PYTHON is not a working Python of version 3.11 or newer." >&2
        exit 1
    }
    exec "$PYTHON" "$here/environment.py" "$@"
fi

chosen_before=$("$here/../.venv/bin/python" -c 'import sys; print(sys._base_executable)' 2>/dev/null) || chosen_before=''

fallback=''
for candidate in "$chosen_before" python3.13 python3.12 python3.11 python3; do
    is_new_enough "$candidate" || continue
    if "$candidate" -c 'import ensurepip' >/dev/null 2>&1; then
        exec "$candidate" "$here/environment.py" "$@"
    fi
    fallback=${fallback:-$candidate}
done
[ -z "$fallback" ] || exec "$fallback" "$here/environment.py" "$@"

echo "Midstream needs Python 3.11 or newer; none of python3.13, python3.12, python3.11, python3 is one." >&2
echo "Install one, or name it: make PYTHON=/path/to/python3.12 setup" >&2
exit 1
