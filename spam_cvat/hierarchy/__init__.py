"""The hierarchy: gate the nodes, link tracklets level by level, calibrate what it believes."""
