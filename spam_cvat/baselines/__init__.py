"""Trackers of others, written anew for comparison on the same boxes: ByteTrack and GHOST."""
