#!/usr/bin/env bash
# Makes an environment: tools/set_up.sh FOLDER EXTRAS CONSTRAINTS [CONSTRAINTS THAT GO BEFORE THEM [PACKAGE …]]
#
# Packages named at the end are installed without what they ask for.
#
# torch goes in first and alone, so that whichever build of it this machine is set up for is in place
# before anything asks for it. What pip says is in FOLDER/set-up.log; its names and troubles are shown.
set -euo pipefail

folder=$1 extras=$2 constraints=$3 preferred=${4:-/dev/null}
python=${PYTHON:-python3}
without_requirements=("${@:5}")

briefly() {
    tee -a "$folder/set-up.log" | awk '
        /^(Collecting|Processing) / {
            name = $2
            sub(".*/", "", name)
            sub("-[0-9].*|[;=<>!~(\\[].*", "", name)
            if (name != "" && !(name in seen)) { seen[name] = 1; printf " %s", name; fflush() }
        }
        /^Installing collected/ { printf "\n    installing"; fflush() }
        /ERROR|error:/ { print "\n" $0; fflush() }
        END { print "" }'
}

install() {
    printf '   '
    "$folder/bin/python" -m pip install --disable-pip-version-check --no-input \
        -c "$folder/constraints.txt" "$@" 2>&1 | briefly
}

echo "Set-up of $folder, once (1 to 5 minutes, most of it torch)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; name one like this: make PYTHON=python3.12 …" >&2
    exit 1
}
echo "  1/3 an environment of its own"
"$python" -m venv "$folder" || {
    echo "Python has no venv module here (on Debian and Ubuntu: install python3-venv)" >&2
    exit 1
}
# Of a package that both files name, the preferred version counts.
awk -F '==' 'NF < 2 { next } !(tolower($1) in pinned) { pinned[tolower($1)] = 1; print }' \
    "$preferred" "$constraints" > "$folder/constraints.txt"
echo "  2/3 torch"
install torch
echo "  3/3 the other packages"
install -e ".[$extras]"
if ((${#without_requirements[@]})); then install --no-deps "${without_requirements[@]}"; fi
touch "$folder/ready"
echo "  ready"
