"""A fake ssh command that runs everything on this host."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

# It parses options, shares one connection, and prints ssh's messages for some hosts.
SSH = """#!/bin/sh
printf '%s\\n' "$*" >> "${0%/*}/asked"
while [ "$1" != -- ]; do
    case $1 in
    -M) master=1; shift ;;
    -T) shift ;;
    -W) to=$2; shift 2 ;;
    -o) [ "$2" != ProxyCommand=false ] || carried=1; shift 2 ;;
    *) shift 2 ;;
    esac
done
host=$2
shift 2
case $host in
stranger) echo 'Host key verification failed.' >&2; exit 255 ;;
closed) echo 'me@closed: Permission denied (publickey).' >&2; exit 255 ;;
nowhere) echo 'ssh: Could not resolve hostname nowhere: Name or service not known' >&2; exit 255 ;;
bare) PATH=${0%/*}/bare; export PATH ;;
esac
[ -z "$master" ] || echo $$ > master
if [ -n "$carried" ] && ! kill -0 "$(cat master)" 2>/dev/null; then echo 'Connection closed' >&2; exit 255; fi
case $to in
forbidden:*) echo 'channel 2: open failed: administratively prohibited: open failed' >&2; exit 1 ;;
esac
[ -z "$to" ] || exec cat "${0%/*}/guest-$to"
exec /bin/sh -c "$*"
"""


def write_ssh(directory: Path) -> Path:
    """Return the command; the file "asked" next to it has its arguments."""
    command = directory / "ssh"
    command.write_text(SSH, encoding="utf-8")
    command.chmod(0o755)
    (directory / "bare").mkdir(exist_ok=True)
    if not (directory / "bare" / "sh").exists():
        (directory / "bare" / "sh").symlink_to("/bin/sh")  # all that the host of that name has
    return command


def uri_of(command: Path, host: str = "far") -> str:
    """Return the URI of a hypervisor on a fake host."""
    return f"qemu+ssh://me@{host}:2222/system?command={quote(str(command))}"
