"""`python -m midstream` is `midstream`."""

import sys

from midstream import cli

if __name__ == "__main__":
    sys.exit(cli.main())
