"""Host time of calls that Triton serves, up to the GPU's driver: python bench/launch_cost.py [op ...]; no GPU needed.

The GPU is a fake one (ordkernels/testing/launches.py): tensors lie on the CPU, calls take the way of CUDA tensors, kernels are compiled
and none runs. So the driver's own launch and CUDA's allocator are missing, matrix products of torch (`mlp`, `sequence_layer`, chains,
`value_decode`) take what they take on the CPU, and results mean nothing. On a GPU `launch_us` of bench/run.py has it all.
"""

import argparse
import os
import sys
import timeit
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import op_names

from ordkernels import _library


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("bench/launch_cost.py", description="Host time of Triton's calls, on a fake GPU.")
    parser.add_argument("ops", nargs="*", metavar="op", help="files of bench/cases; default: all that have a Triton kernel")
    args = parser.parse_args(argv)
    for op in args.ops:
        op_names.check(op)
    serve_cpu_tensors_as_cuda()
    import cases
    from gpu_smoke import has_kernel

    from ordkernels._validation import tensors
    from ordkernels.testing.launches import fake_gpu

    tensors.can_read_values = lambda t: False  # as of tensors on a GPU
    with fake_gpu() as launched:
        for op in args.ops or [name for name in op_names.NAMES if has_kernel("triton", name)]:
            for case in cases.cases(op, "cpu", "tiny"):
                run = case.runs[cases.OURS]
                run()  # compiles
                launched.clear()
                run()
                print(f"{op:26} {case.name:60} {len(launched):2} launches {host_time(run) * 1e6:7.1f} us", flush=True)
    return 0


def serve_cpu_tensors_as_cuda() -> None:
    """Register what serves CUDA tensors for CPU tensors too; before the ops are imported."""
    register = _library.LIB.impl

    def both(name: str, kernel: Callable[..., Any], key: str, **options: Any) -> None:
        register(name, kernel, key, **options)
        if key == "CUDA":
            register(name, kernel, "CPU", allow_override=True)

    _library.LIB.impl = both  # type: ignore[assignment,method-assign]
    warnings.filterwarnings("ignore", message="Warning only once for all operators")  # of overridden kernels


def host_time(run: Callable[[], Any]) -> float:
    """Seconds of one call: the fastest of many short rounds, which others on the machine leave alone."""
    timer = timeit.Timer(run)
    number = max(1, int(0.002 / max(timer.timeit(1), 1e-6)))
    return min(timer.repeat(100, number)) / number


if __name__ == "__main__":
    sys.exit(main())
