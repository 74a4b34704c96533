"""From the scanner to the case folder: volumes as they were exported in; registered, cropped cases out."""
