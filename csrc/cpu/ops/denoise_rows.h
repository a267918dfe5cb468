// The rows that denoising steps go over, their levels, and the noise that is made for them on the way: in a tile of 64
// blocks on the stack, used from there.
#pragma once
#include "common/philox.h"
#include "cpu/denoise.h"
#include "cpu/simd/vmath.h"

namespace ORD_ISA {
namespace {

using DenoiseArgs = denoise::Args;

ORD_INLINE double at_row(const denoise::PerRow& a, int64_t b, int64_t k) {
  if (!a.p) {
    return a.number;
  }
  const int64_t i = b * a.by_b + k * a.by_k;
  return a.is_double ? ((const double*)a.p)[i] : ((const float*)a.p)[i];
}

static __attribute__((noinline)) void normals(const uint64_t* row, const uint64_t* index, uint64_t step, uint64_t seed,
                                              int n, float* to) {
  philox::blocks<true>(row, index, step, seed, n, to);
}

// f(b, first lane, lanes, noise) over tiles of rows b of `width` lanes.
template <class F>
ORD_INLINE void noise_tiles(const DenoiseArgs& a, int64_t begin, int64_t end, F f) {
  constexpr int kTile = philox::kBlocks;
  alignas(64) uint64_t row[kTile] = {}, index[kTile] = {};
  alignas(64) float made[4 * kTile];
  const int64_t width = a.K * a.D, per_row = (width + 3) / 4;
  const int m = per_row < kTile ? (int)per_row : kTile;  // blocks of a row in a tile
  const int64_t together = kTile / m;
  int64_t indexed = -1;
  int rows = 0;
  for (int64_t b = begin; b < end; b += together) {
    const int n = end - b < together ? (int)(end - b) : (int)together;
    for (int64_t first = 0; first < per_row; first += m) {
      const int now = per_row - first < m ? (int)(per_row - first) : m;
      uint64_t* to = row;
      for (int j = 0; j < n; ++j, to += now) {
        const uint64_t id = a.row_ids ? (uint64_t)a.row_ids[b + j] : (uint64_t)(b + j);
        for (int i = 0; i < now; ++i) {
          to[i] = id;
        }
      }
      if (first != indexed || n > rows) {  // else they are there from the tile before
        for (int j = 0; j < n; ++j) {
          for (int i = 0; i < now; ++i) {
            index[j * now + i] = first + i;
          }
        }
        indexed = first, rows = n;
      }
      normals(row, index, a.step, a.seed, n * now, made);
      const int64_t lane = 4 * first, lanes = width - lane < 4 * now ? width - lane : 4 * now;
      for (int j = 0; j < n; ++j) {
        f(b + j, lane, lanes, made + 4 * j * now);
      }
    }
  }
}

// n floats of noise -> lanes of the compute type
ORD_INLINE vf noise_lanes(const float* p, int n, vf) {
  if (n == kLanes<float>) {
    return load(p);
  }
  vf v{};
  for (int i = 0; i < n; ++i) {
    v[i] = p[i];
  }
  return v;
}
ORD_INLINE vd noise_lanes(const float* p, int n, vd) {
  vd v{};
  for (int i = 0; i < n; ++i) {
    v[i] = p[i];
  }
  return v;
}

// f(row, b, k, first element, elements, made noise or null): whole rows, or the parts of them that a tile of noise
// covers; `alike`: all rows are one to f, and come as one where no noise is made.
template <bool MADE, class F>
ORD_INLINE void for_rows(const DenoiseArgs& a, int64_t begin, int64_t end, F f, bool alike = false) {
  if constexpr (MADE) {
    noise_tiles(a, begin, end,
                [&](int64_t b, int64_t lane, int64_t lanes, const float* noise) __attribute__((always_inline)) {
                  for (int64_t done = 0; done < lanes;) {
                    const int64_t at = lane + done, k = a.K == 1 ? 0 : at / a.D,
                                  d = a.K == 1 ? at : at % a.D;  // a division takes 20 cycles
                    const int64_t n = a.D - d < lanes - done ? a.D - d : lanes - done;
                    f(b * a.K + k, b, k, d, n, noise + done);
                    done += n;
                  }
                });
  } else {
    const int64_t K = alike ? 1 : a.K, last = alike ? begin + 1 : end, n = alike ? (end - begin) * a.K * a.D : a.D;
    for (int64_t b = begin; b < last; ++b) {
      for (int64_t k = 0; k < K; ++k) {
        f(b * a.K + k, b, k, (int64_t)0, n, (const float*)nullptr);
      }
    }
  }
}

}  // namespace
}  // namespace ORD_ISA

#define ORD_BY_TYPE(CALL)                 \
  switch (a.type) {                       \
    case DType::f32: CALL(float); break;  \
    case DType::f64: CALL(double); break; \
    case DType::bf16: CALL(bf16); break;  \
    default: CALL(f16);                   \
  }
#define ORD_BY_NOISE(F, S)                                                 \
  a.noise_from == denoise::kMade    ? F<S, denoise::kMade>(a, begin, end)  \
  : a.noise_from == denoise::kGiven ? F<S, denoise::kGiven>(a, begin, end) \
                                    : F<S, denoise::kNone>(a, begin, end)
