// Run-time choice between the three instruction sets. ORDKERNELS_ISA=base|avx2|avx512 in any case of its letters can
// lower it, never raise it; ordkernels/_backend.py warns of other values.
#pragma once
#include <strings.h>

#include <cstdlib>

#include "common/declare_kernel.h"

enum class Isa { base, avx2, avx512 };

inline Isa isa() {
  static const Isa chosen = [] {
    Isa best =
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd")
            ? Isa::avx512
        : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") ? Isa::avx2
                                                                                                            : Isa::base;
    const char* s = std::getenv("ORDKERNELS_ISA");
    const Isa wish = !s                         ? best
                     : !strcasecmp(s, "avx512") ? Isa::avx512
                     : !strcasecmp(s, "avx2")   ? Isa::avx2
                     : !strcasecmp(s, "base")   ? Isa::base
                                                : best;
    return wish < best ? wish : best;
  }();
  return chosen;
}

#define ORD_DISPATCH(fn) (isa() == Isa::avx512 ? avx512::fn : isa() == Isa::avx2 ? avx2::fn : base::fn)
