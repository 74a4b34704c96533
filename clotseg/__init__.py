"""clotseg: ischemic-stroke clots on CTA and NCCT, from folders of volumes to a trained U-Net and its report.

Data flows one way. A package imports only from those above it, or from the small modules that all may use
(`errors`, `config`, `project`, `artifact`, `console`):

    prep      cases → cohorts by patient → windowed slices → sharded TFRecords
    dali      TFRecords → augmented, centre-padded batches on the device
    train     batches → weights, history
    evaluate  weights + untouched cases → masks, metrics, report
"""

__version__ = "0.1.0"
