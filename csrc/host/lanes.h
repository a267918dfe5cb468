// The vectorised loops of lane_sort.h on the best instruction set of this processor.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "host/radix.h"

namespace ordkernels::host {
constexpr int kLanes = 8;
}

#define ORD_ISA base
#define ORD_TARGET
#include "host/lane_sort.h"
#undef ORD_ISA
#undef ORD_TARGET
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

namespace ordkernels::host {

template <class F>
inline void load_column(const F* values, int64_t n, int64_t rows, key_of<F>* column) {
  ORD_DISPATCH(load_column(values, n, rows, column));
}

template <class K>
inline void sort_columns(K* tile, int64_t rows) {
  ORD_DISPATCH(sort_columns(tile, rows));
}

// Not on AVX-512, whose fused multiply-add would round otherwise than the reference.
template <class F>
inline bool read_levels(const key_of<F>* keys, int64_t stride, const int64_t* lo, const int64_t* hi, const double* t, int64_t count, F* out) {
  return isa() == Isa::base ? base::read_levels(keys, stride, lo, hi, t, count, out) : avx2::read_levels(keys, stride, lo, hi, t, count, out);
}

inline void set_positions(int64_t n, const double* levels, int64_t count, int64_t* lo, int64_t* hi, double* t) {
  isa() == Isa::base ? base::set_positions(n, levels, count, lo, hi, t) : avx2::set_positions(n, levels, count, lo, hi, t);
}

}  // namespace ordkernels::host
