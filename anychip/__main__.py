"""`python -m anychip` is `anychip`."""

import sys

from anychip.cli import main

sys.exit(main())
