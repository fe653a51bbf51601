"""`python -m ingest`."""

import sys

from ingest.interrupted import end_quietly

if __name__ == "__main__":
    end_quietly()

    from ingest.main import main

    sys.exit(main())
