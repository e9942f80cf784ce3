"""Run the command line as `python -m kdump_harness`."""

import sys

from .cli.parser import main

sys.exit(main())
