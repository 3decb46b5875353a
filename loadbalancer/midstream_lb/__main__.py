"""`python -m midstream_lb`."""

import sys

from midstream_lb.main import main

sys.exit(main())
