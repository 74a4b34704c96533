"""Augmentation in the DALI graph, one definition for CPU and GPU, in four parts.

    parameters  what is done to one slice: as nodes of a graph, and as a plain record
    sampler     draws parameters, in a graph of its own
    draws       the parameters of an epoch, by position
    transforms  applies given parameters to images and masks, in the graph of training

`rerun` applies given records outside a training, through the same `transforms`. On uint8, the
arithmetic on a CPU is that of albumentations 2.0.8 and OpenCV, to the pixel.
"""
