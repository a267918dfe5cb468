// Philox-4x32-10 and four normals from its words, per thread; words and polynomials as in common/philox.h.
#pragma once
#include "device.h"

namespace noise {

struct Words {
  uint32_t x[4];
};

// The words of `block` in the stream of (seed, row, step).
__device__ __forceinline__ Words philox(uint64_t row, uint32_t step, uint32_t block, uint64_t seed) {
  Words c{{static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32), step, block}};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int r = 0; r < 10; ++r, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint64_t p0 = uint64_t{c.x[0]} * 0xD2511F53u, p1 = uint64_t{c.x[2]} * 0xCD9E8D57u;
    c = {{static_cast<uint32_t>(p1 >> 32) ^ c.x[1] ^ k0, static_cast<uint32_t>(p1),
          static_cast<uint32_t>(p0 >> 32) ^ c.x[3] ^ k1, static_cast<uint32_t>(p0)}};
  }
  return c;
}

// sqrt(-2 ln u) of u = (2 (x >> 8) + 1) 2^-25.
__device__ __forceinline__ float radius(uint32_t x) {
  const int k = static_cast<int>((x >> 7) | 1), e = (__float_as_int(static_cast<float>(k)) - 0x3F3504F3) >> 23;
  const float w = static_cast<float>(k - (1 << e)) * __int_as_float((127 - e) << 23);  // k 2^-e - 1, exact
  const float n = static_cast<float>(e - 25), w2 = w * w;
  float p = 7.0376836292e-2f;  // ln(1 + w): Cephes
  p = p * w - 1.1514610310e-1f;
  p = p * w + 1.1676998740e-1f;
  p = p * w - 1.2420140846e-1f;
  p = p * w + 1.4249322787e-1f;
  p = p * w - 1.6668057665e-1f;
  p = p * w + 2.0000714765e-1f;
  p = p * w - 2.4999993993e-1f;
  p = p * w + 3.3333331174e-1f;
  const float low = (p * w2 * w + n * -2.12194440e-4f) - 0.5f * w2;
  return __fsqrt_rn(-2.0f * ((w + low) + n * 0.693359375f));
}

// Box-Muller; the angle is reduced to an eighth of a turn in integers, exactly.
__device__ __forceinline__ void normals(uint32_t a, uint32_t b, float& first, float& second) {
  const int k = static_cast<int>((b >> 7) | 1), q = (k + (1 << 22)) >> 23;
  const float t = static_cast<float>(k - (q << 23)) * 1.87253514146e-7f, z = t * t, r = radius(a);  // 2 pi / 2^25
  const float s = t + t * z * (-1.6666654611e-1f + z * (8.3321608736e-3f + z * -1.9515295891e-4f));
  const float c =
      1.0f + z * (-0.5f + z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f)));
  const float x = q & 1 ? s : c, y = q & 1 ? c : s;
  first = r * ((q + 1) & 2 ? -x : x), second = r * (q & 2 ? -y : y);
}

__device__ __forceinline__ Vec<float, 4> normal4(uint64_t row, uint32_t step, uint32_t block, uint64_t seed) {
  const Words w = philox(row, step, block, seed);
  Vec<float, 4> n;
  normals(w.x[0], w.x[1], n.v[0], n.v[1]);
  normals(w.x[2], w.x[3], n.v[2], n.v[3]);
  return n;
}

}  // namespace noise
