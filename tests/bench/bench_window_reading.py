"""How fast windows are read: our tiers against np.memmap and zarr-python on the same files.

    python tests/bench/bench_window_reading.py --out docs/results

The same as ``robopolicy data bench synthetic only=[reading]``; further arguments go there.
"""

from __future__ import annotations

import sys

from robopolicy.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", "bench", "synthetic", "only=[reading]", *sys.argv[1:]]))
