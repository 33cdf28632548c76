"""A stand-in for the part of CVAT's API that spam-cvat uses, over real HTTP."""
