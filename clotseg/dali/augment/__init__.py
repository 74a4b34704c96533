"""Augmentation in the DALI graph, one definition for CPU and GPU, in three parts.

    parameters  what is done to one slice: as nodes of a graph, and as a plain record
    sampler     draws parameters in the graph
    transforms  applies given parameters to images and masks

`rerun` applies given records outside a training, through the same `transforms`. On uint8, the
arithmetic on a CPU is that of albumentations 2.0.8 and OpenCV, to the pixel.
"""
