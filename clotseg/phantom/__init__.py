"""A synthetic cohort with known truth: arguments in; registered CTA, NCCT and clot masks out.

`geometry` says where things are and how they fill voxels; `population` whom cases are drawn from; `arteries`
grows the Circle of Willis, its clot and its flow; `veins` what can be taken for a clot; `anatomy` the head
around them, drawn or real; `scanner` adds noise and artefacts; `case` puts one patient together; `cohort`
writes them all.

The clots are synthetic. A score on them says that the program works, not how it does on patients.
"""

from clotseg.phantom.cohort import write_cohort

__all__ = ["write_cohort"]
