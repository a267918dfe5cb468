// The vectorised loops of lane_sort.h on the best instruction set of this processor.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "host/radix.h"

namespace ordkernels::host {
constexpr int kLanes = 8;
}

#define ORD_ISA baseline
#define ORD_TARGET
#include "host/lane_sort.h"
#undef ORD_ISA
#undef ORD_TARGET
#if defined(__x86_64__)
#define ORD_ISA avx2
#define ORD_TARGET __attribute__((target("avx2")))
#include "host/lane_sort.h"
#undef ORD_ISA
#undef ORD_TARGET
#define ORD_ISA avx512
#define ORD_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#include "host/lane_sort.h"
#undef ORD_ISA
#undef ORD_TARGET
#endif

namespace ordkernels::host {

enum class Isa { baseline, avx2, avx512 };

// What this processor has, lowered by ORDKERNELS_ISA = baseline | avx2 | avx512.
inline Isa isa() {
  static const Isa chosen = [] {
    Isa best = Isa::baseline;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) best = Isa::avx2;
    if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      best = Isa::avx512;
    }
#endif
    const char* name = std::getenv("ORDKERNELS_ISA");
    const std::string wanted = name ? name : "";
    if (wanted == "baseline") return Isa::baseline;
    return wanted == "avx2" ? std::min(best, Isa::avx2) : best;
  }();
  return chosen;
}

template <class F>
inline void load_column(const F* values, int64_t n, int64_t rows, key_of<F>* column) {
#if defined(__x86_64__)
  if (isa() >= Isa::avx2) return avx2::load_column(values, n, rows, column);
#endif
  baseline::load_column(values, n, rows, column);
}

template <class K>
inline void sort_columns(K* tile, int64_t rows) {
#if defined(__x86_64__)
  if (isa() == Isa::avx512) return avx512::sort_columns(tile, rows);
  if (isa() == Isa::avx2) return avx2::sort_columns(tile, rows);
#endif
  baseline::sort_columns(tile, rows);
}

// Not on AVX-512, whose fused multiply-add would round otherwise than the reference.
template <class F>
inline bool read_levels(const key_of<F>* keys, int64_t stride, const int64_t* lo, const int64_t* hi, const double* t,
                        int64_t count, F* out) {
#if defined(__x86_64__)
  if (isa() >= Isa::avx2) return avx2::read_levels(keys, stride, lo, hi, t, count, out);
#endif
  return baseline::read_levels(keys, stride, lo, hi, t, count, out);
}

}  // namespace ordkernels::host
