"""What tests and benchmarks share.

- `compare`: error budgets in place of tolerances;
- `inputs`: friendly and hostile inputs;
- `timing`: candidates timed in turns, bandwidth and matrix rate of the machine;
- `aot`: Triton kernels compiled for GPUs that need not be present;
- `interpreter`: Triton's interpreter made faster.
"""
