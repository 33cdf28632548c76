"""The hierarchy: which candidate boxes are real, and which of them are one identity.

Detections and camera motion go in; gate probabilities, the levels' candidate edges with what was decided about them,
and an identity per box come out. Nothing here reads files or knows of CVAT.

==================  ====================================================================================================
``normalise``       unlike input made familiar: each object once, in the shape of people, in every frame
``grouping``        array operations over groups of rows (ranks, margins, pairs)
``geometry``        a clip's boxes in camera-compensated coordinates, with their neighbourhood in the frame
``motion_fit``      where a tracklet's ends are and where they move, with uncertainty; how well this scene predicts
``look``            what a difference in looks means in this scene
``graph``           nodes, candidate edges and features of each level
``network``         gate and time-aware message passing
``weights``         the ensemble on disk, and the scorer made of it
``assignment``      one-in one-out rounding, probabilities under the constraints, answers that must not be contradicted
``calibration``     probabilities that mean what they say
``levels``          the bottom-up run over one clip, crossings undone
``ends``            open ends judged once more, tracks that overlap for a moment among them
``amend``           answers imposed on a clip that was linked without them
``stitching``       clips of a long video, joined
``filling``         boxes on every frame of an identity
``finish``          tracks out of identities: gaps, smoothing, the last gate
==================  ====================================================================================================
"""
