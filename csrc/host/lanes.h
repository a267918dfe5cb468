// The vectorised loops of lane_sort.h on the best instruction set of this processor.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "host/radix.h"

namespace ordkernels::host {
constexpr int kLanes = 8;      // what levels are padded to
constexpr int kMostWide = 16;  // the most groups in a tile
}  // namespace ordkernels::host

#define ORD_ISA base
#define ORD_TARGET
#define ORD_BYTES 16
#include "host/lane_sort.h"
#undef ORD_ISA
#undef ORD_TARGET
#undef ORD_BYTES
#define ORD_ISA avx2
#define ORD_TARGET __attribute__((target("avx2")))
#define ORD_BYTES 32
#include "host/lane_sort.h"
#undef ORD_ISA
#undef ORD_TARGET
#undef ORD_BYTES
#define ORD_ISA avx512
#define ORD_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#define ORD_BYTES 64
#include "host/lane_sort.h"
#undef ORD_ISA
#undef ORD_TARGET
#undef ORD_BYTES

namespace ordkernels::host {

template <class K>
inline int tile_width() {
  return isa() == Isa::avx512 ? avx512::kWide<K> : isa() == Isa::avx2 ? avx2::kWide<K> : base::kWide<K>;
}

template <class F>
inline void load_tile(const F* const* group, const int64_t* size, int64_t rows, const F* end, key_of<F>* tile) {
  ORD_DISPATCH(load_tile(group, size, rows, end, tile));
}

template <class K>
inline void sort_columns(K* tile, int64_t rows) {
  ORD_DISPATCH(sort_columns(tile, rows));
}

template <class F>
inline bool interpolate_levels(const key_of<F>* below, const key_of<F>* above, const double* t, int64_t count, F* out) {
  return ORD_DISPATCH(interpolate_levels(below, above, t, count, out));
}

inline void set_positions(int64_t n, const double* levels, int64_t count, int64_t* lo, int64_t* hi, double* t) {
  ORD_DISPATCH(set_positions(n, levels, count, lo, hi, t));
}

}  // namespace ordkernels::host
