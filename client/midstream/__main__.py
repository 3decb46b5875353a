"""The `midstream` command's first lines; `python -m midstream` is the same.

Guarantee: Ctrl-C while the libraries are imported ends the process without a traceback.
"""

import signal
import sys


def main() -> int:
    """Run one command and return its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until a command has a use for it; `run` has.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from midstream import cli  # noqa: PLC0415  the import is what takes long

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
