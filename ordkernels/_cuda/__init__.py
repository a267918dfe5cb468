"""Launchers of the CUDA C++ kernels (csrc/cuda): each module has a function of its op's name, and one of its backward's.

``unavailable_reasons(*args)`` and ``backward_unavailable_reasons(*args)`` say why the kernels cannot run a call: it then raises where
CUDA C++ is forced, else Triton takes it. `prefers` says which of the two runs a call that both could.
"""

# Is CUDA C++ expected to be faster than Triton, on an H100? An estimate: no kernel has been measured on a GPU yet.
FASTER = {
    "planar_flow": True,  # parameters are read while the layer before is computed; log dets once for 32 layers
    "nested_min": True,  # the scan in order costs a thread K additions, and no split of tiles into columns
    "encode_increments": True,
    "crps": True,  # sorted in registers, where a program of Triton's goes through shared memory at every step of its network
    "wasserstein_quantile_loss": True,
    "denoise_chain": True,  # weights stay in shared memory, where Triton's come from L2 at every step
    "fusion_chain": True,
    "value_decode": True,  # finished rows are retired, and other rows' tokens do not wait for them
}


def prefers(kernel: str) -> bool:
    return FASTER[kernel.removesuffix("_backward")]
