"""Baselines: clean ByteTrack and GHOST, for comparison and as the trackers that labels train."""
