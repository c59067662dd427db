"""`python -m fastfcgi` is the same as the command `fastfcgi`."""

import sys

from fastfcgi.cli import main

if __name__ == "__main__":
    sys.exit(main())
