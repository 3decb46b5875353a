"""`python -m midstream_engine`."""

import sys

from midstream_engine.main import main

sys.exit(main())
