"""Launchers of the CUDA C++ kernels (csrc/cuda): each module has a function of its op's name, and one of its backward's.

``unavailable_reasons(*args)`` and ``backward_unavailable_reasons(*args)`` say why the kernels cannot run a call: it then raises where
CUDA C++ is forced, else Triton takes it. `prefers` says which of the two runs a call that both could.
"""

# Is CUDA C++ expected to be faster than Triton, on an H100? An estimate: no kernel has been measured on a GPU yet.
FASTER = {
    "planar_flow": True,  # parameters are read while the layer before is computed; log dets once for 32 layers
}


def prefers(kernel: str) -> bool:
    return FASTER[kernel.removesuffix("_backward")]
