"""DanceTrack: our tracks, ByteTrack's and GHOST's on the same boxes; people who look alike and move without warning.

In: sequences of the validation set with YOLOX-X detections. Out: a table, ``results.json`` and result files. The set is
for measuring only: nothing is trained or tuned on it.

    python -m benchmarks.dancetrack --out DIR [--json] [--detections yolox_x] [--variant bytetrack-yolox_x]
"""

from collections.abc import Sequence

from benchmarks.common import main, sequence_folders, tracker_options
from benchmarks.mot17 import compare
from spam_cvat.baselines.ghost import DANCETRACK


def run(arguments: Sequence[str] | None = None) -> None:
    args = tracker_options(__doc__, "yolox_x").parse_args(arguments)
    compare(args, "dancetrack", sequence_folders("dancetrack", "val"), ["yolox_x"], "all", "plain", DANCETRACK)


if __name__ == "__main__":
    main(run)
