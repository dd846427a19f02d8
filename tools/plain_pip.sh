# Sourced by what works with plain pip: $python, a folder $scratch that goes when the script ends, and no
# settings of the caller's that would leak into another environment.
unset PYTHONPATH VIRTUAL_ENV PYTHONDONTWRITEBYTECODE

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python=$(command -v python3.11 || command -v python3)
if [ -z "${PIP_FIND_LINKS:-$("$python" -m pip config get global.find-links 2>/dev/null || true)}" ]; then
    export PIP_FIND_LINKS=https://download.pytorch.org/whl/cpu/torch/ # a CPU build is enough here
fi
