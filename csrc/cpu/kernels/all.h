// Every torch-free kernel; each is compiled once per instruction set, inside the namespace ORD_ISA.
#pragma once
#include "cpu/kernels/increments.h"
#include "cpu/kernels/denoise.h"
