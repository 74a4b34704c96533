"""Measuring a machine: a project or a phantom in; the speed of each stage, and which is the slowest, out."""
