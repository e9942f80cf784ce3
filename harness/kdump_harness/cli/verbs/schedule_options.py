"""The options of the verb schedule; light, since every --help reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_EPILOG = """\
examples:
  kdump-harness schedule install debian-12 rocky-9 --at 02:30 --metrics /var/lib/node_exporter/kdump.prom
  kdump-harness schedule install debian-12 --user --at weekly --hook 'mail -s kdump root'
  kdump-harness schedule run debian-12 --options '--level 1'    # what the timer runs, for cron and CI
"""


def add_schedule(verbs: Any, formatter: Any) -> None:
    """Add the verb and its actions to the command line."""
    text = "Drills by the clock, by a systemd timer or under cron, and who hears of a change."
    parser = verbs.add_parser("schedule", help=text, description=text, formatter_class=formatter, epilog=_EPILOG)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")

    install = actions.add_parser("install", help="Install and start the timer.", formatter_class=formatter)
    install.add_argument("--at", default="*-*-* 02:30", metavar="WHEN", help="as OnCalendar, systemd.time(7)")
    install.add_argument("--delay", default="30min", metavar="SPAN", help="start up to so much later, at random")
    install.add_argument("--limit", default="12h", metavar="SPAN", help="a run may take so long")
    install.add_argument("--print", action="store_true", help="only show the units")
    status = actions.add_parser("status", help="When it runs, and what came of it.", formatter_class=formatter)
    remove = actions.add_parser("remove", help="Stop and remove the timer.", formatter_class=formatter)
    for made in (install, status, remove):
        made.add_argument("--name", default="kdump-drill", metavar="NAME", help="of the units")
        made.add_argument("--user", action="store_true", help="in the user's systemd, not the system's")
    run = actions.add_parser("run", help="Drill now, one image after the other.", formatter_class=formatter)
    for made in (install, run):
        made.add_argument("image", nargs="+", metavar="IMAGE", help="names of the catalogue")
        made.add_argument("--options", default="", metavar="TEXT", help="further options of drill, in one word")
        made.add_argument("--evidence", type=Path, metavar="DIR", help="where evidence goes (default: in the state)")
        made.add_argument("--history", metavar="FILE", help="where runs are recorded (default: in the state)")
        made.add_argument("--metrics", type=Path, metavar="FILE", help="write a textfile for Prometheus")
        made.add_argument("--hook", metavar="COMMAND", help="run it on a change of verdict, with JSON on its input")
    for made in (install, status, run):
        made.add_argument("--state", type=Path, metavar="DIR", help="where the state is kept")
    for name, made in (("install", install), ("status", status), ("remove", remove), ("run", run)):
        made.set_defaults(verb=name, module="cli.verbs.schedule")
