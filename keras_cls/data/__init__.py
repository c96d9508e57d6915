"""Data: where labelled images come from, and how they become batches.

sources -> scanning -> pipeline; decoding and augmentation are what the pipeline does to an image.
"""
