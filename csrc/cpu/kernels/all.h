// Every torch-free kernel; each is compiled once per instruction set, inside the namespace ORD_ISA.
#pragma once
#include "cpu/kernels/denoise.h"
#include "cpu/kernels/increments.h"
#include "cpu/kernels/planar_flow_backward.h"
#include "cpu/kernels/rng.h"
#include "cpu/kernels/vmath_probe.h"
#include "cpu/kernels/wasserstein.h"
