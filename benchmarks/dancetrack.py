"""DanceTrack: our tracks, ByteTrack's and GHOST's on the same boxes; people who look alike and move without warning.

In: sequences of the validation set with YOLOX-X detections. Out: a table, ``results.json`` and result files. The set is
for measuring only: nothing is trained or tuned on it.

    python -m benchmarks.dancetrack --out DIR [--json] [--detections yolox_x] [--variant bytetrack-yolox_x]
"""

import time
from collections.abc import Sequence

from benchmarks.common import finish, main, options
from benchmarks.mot17 import COLUMNS, compare


def run(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--detections", action="append", metavar="NAME", help="default yolox_x")
    parser.add_argument("--variant", action="append", metavar="NAME", help="default all")
    args = parser.parse_args(arguments)
    began = time.perf_counter()
    detections = args.detections or ["yolox_x"]
    runs = compare("dancetrack", [("dancetrack", "val")], detections, args.variant, "all", "plain", args.out)
    finish(args, [run.row for run in runs], began, COLUMNS, sequences=[row for run in runs for row in run.sequences])


if __name__ == "__main__":
    main(run)
