"""Triton kernels and their launchers, one file an op; imported on the first CUDA use.

A file `<op>.py` here has `forward` and `backward` with the signatures of `ferkit.kernels.eager.<op>`, and becomes
reachable by its entry in `ferkit.ops._select`.
"""
