"""`python -m midstream_operator`."""

import sys

from midstream_operator.main import main

sys.exit(main())
