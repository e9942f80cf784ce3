"""Shell scripts that a remote host runs."""

from __future__ import annotations

SHARED = "/var/lib/kdump-harness-remote"
OWN = "/var/tmp/kdump-harness-remote"  # followed by the user id
# Makes the directory of a run and holds it. $1: the state directory, or empty; $2: the identity of a run, or empty for
# inspection only; others: required tools. The directory gets its name with its lock held, so that it never looks stale.
# Standard input ends with the harness.
HOLD = f"""
state=$1 run=$2 missing=
shift 2
say() {{ echo "$*"; exit 0; }}
umask 022
trap '' HUP INT TERM PIPE
for tool in "$@"; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
[ -z "$missing" ] || say "cannot it lacks$missing"
if [ -z "$state" ]; then
    state={SHARED}
    [ -w "$state" ] || {{ [ ! -e "$state" ] && [ -w "${{state%/*}}" ]; }} || state={OWN}-$(id -u)
fi
case $state in
/*) ;;
*) state=$PWD/$state ;;
esac
if [ -n "$run" ]; then
    why=$(mkdir -p "$state/runs" 2>&1 && mkdir -p "$state/copies" 2>&1) ||
        say "cannot its state directory $state cannot be used ($why)"
    [ -O "$state/runs" ] || say "cannot its state directory $state belongs to another user"
    chmod 711 "$state/copies" && mkdir "$state/runs/.$run" && exec 9>"$state/runs/.$run/lock" && flock 9 &&
        chmod 711 "$state/runs/.$run" && [ ! -e "$state/runs/$run" ] && mv "$state/runs/.$run" "$state/runs/$run" ||
        say "cannot its state directory $state cannot be used"
fi
echo "ready $state"
cat >/dev/null
[ -z "$run" ] || rm -rf "$state/runs/$run"
echo ended
"""
# Lists the runs in $1 as active or stale; a lock that is not readable counts as active.
RUNS = """
for run in "$1"/runs/*/; do
    [ -e "$run/lock" ] || continue
    run=${run%/}
    if flock -n "$run/lock" true; then echo "stale ${run##*/}"; else echo "active ${run##*/}"; fi
done
"""
REMOVE_RUN = 'if [ -d "$1" ]; then flock -n "$1/lock" rm -rf "$1"; fi; [ ! -e "$1" ]'
IS_HELD = 'if [ -e "$1/lock" ] && ! flock -n "$1/lock" true; then echo held; fi'
UNFINISHED = (
    'for part in "$1"/copies/*.part; do [ -d "$part" ] && flock -n "${part%.part}.lock" echo "$part"; done; true'
)
COPIES = 'for copy in "$1"/copies/*/; do copy=${copy%/}; [ -e "$copy/disk" ] && echo "$copy"; done; true'
REMOVE_COPY = (
    'flock -n "${1%.part}.lock" rm -rf "$1"; [ ! -e "$1" ] && { [ "$1" = "${1%.part}" ] || exit 0; rm -f "$1.lock"; }'
)
# Unpacks a tar of one file from standard input. $1: directory of copies; $2: name; $3, $4: backing file and its format.
RECEIVE = """
cd "$1" && exec 9>"$2.lock" && flock 9 || exit 1
[ ! -e "$2" ] || exit 0
rm -rf "$2.part"
mkdir "$2.part" && tar -xSf - --no-same-owner -C "$2.part" && chmod 644 "$2.part/disk" &&
    if [ -n "$3" ]; then qemu-img rebase -u -f qcow2 -b "$3" -F "$4" "$2.part/disk"; fi &&
    mv "$2.part" "$2" || { rm -rf "$2.part"; exit 1; }
"""
# Moves a disk that was made on the remote host ($3) to the copies ($1) under a name ($2).
ADOPT = """
cd "$1" && exec 9>"$2.lock" && flock 9 || exit 1
[ ! -e "$2" ] || exit 0
rm -rf "$2.part"
mkdir "$2.part" && mv "$3" "$2.part/disk" && mv "$2.part" "$2"
"""
# Lists missing commands and files; an ordinary user's PATH may lack the directories of daemons and mkfs.
LACKING = """
for name in "$@"; do
    case $name in
    /*) [ -e "$name" ] ;;
    *) command -v "$name" >/dev/null || [ -x "/usr/sbin/$name" ] || [ -x "/sbin/$name" ] ;;
    esac || echo "$name"
done
"""
OVERLAY = 'qemu-img create -q -f qcow2 -b "$2" -F "$3" "$1" && chmod 644 "$1"'
BLANK = 'qemu-img create -q -f "$4" "$1" "$2" && chmod "$3" "$1"'
