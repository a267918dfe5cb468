// Every torch-free kernel for one instruction set; the flags of this file are in setup.py. No torch and no std headers in here.
#define ORD_ISA avx512
#include "cpu/kernels/all.h"
