"""CVAT: tasks pulled and pushed, review jobs made, answers brought home without losing human work."""
