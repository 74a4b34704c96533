"""Volumes as scanners and viewers write them, NIfTI and DICOM: files in; voxels and how they lie out."""
