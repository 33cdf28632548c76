"""File formats of others: MOTChallenge text in :mod:`.mot`, CVAT tracks as JSON and XML in :mod:`.cvat`."""
