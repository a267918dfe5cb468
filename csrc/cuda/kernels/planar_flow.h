// planar_flow: z <- z + uhat tanh(w.z + b), K times, and the sum of the log dets; parameters per row.
//
// A warp owns a row; a lane has V neighbouring columns, E times. The parameters are read once, each layer's while the
// one before is computed. What every lane would compute alike and nothing waits for, the log det, lane k computes for
// layer k, once for 32 layers.
//
// Backward: the states are rebuilt from z into shared memory (a lane reads only what it wrote there), then the layers
// are gone through from the last to the first.
#pragma once
#include "planar_flow_math.h"

namespace planar {

template <class T>
struct Parameters {  // [B, K, D], columns adjacent
  In<T> u, w;
  int64_t u_row, u_layer, w_row, w_layer;
};

template <class T, int V, int E>
struct Columns {  // a lane's share of a row [D], in the type that is computed in; zeros past its end
  using A = Compute<T>;
  A v[E][V];

  __device__ __forceinline__ void read(In<T> row, int lane, int D) {
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const int d = (32 * e + lane) * V;
      Vec<T, V> x{};
      if (d < D) {
        x = load<V>(row + d);
      }
#pragma unroll
      for (int i = 0; i < V; ++i) {
        v[e][i] = d < D ? widen(x.v[i]) : A(0);
      }
    }
  }
  __device__ __forceinline__ void write(Out<T> row, int lane, int D) const {
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const int d = (32 * e + lane) * V;
      Vec<T, V> x;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        x.v[i] = narrow<T>(v[e][i]);
      }
      if (d < D) {
        store<V>(row + d, x);
      }
    }
  }
  template <class F>
  __device__ __forceinline__ void each(F f) {
#pragma unroll
    for (int e = 0; e < E; ++e) {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        f(e, i, v[e][i]);
      }
    }
  }
};

// Of a layer, from x = w.u and |w|^2. Where that may have left the dtype's range w is scaled by a power of 2: exactly.
template <class C, class A = typename C::A>
__device__ __forceinline__ Terms<A> layer_terms(C& ws, A x, A n2, int mode) {
  A inverse = A(1);
  if (mode != kUnconstrained && !(n2 > kTiny<A> && n2 < A(1) / kTiny<A>)) {
    A size = A(0);
    ws.each([&](int, int, A w) { size = fmax(size, fabs(w)); });
#pragma unroll
    for (int m = 16; m > 0; m /= 2) {
      size = fmax(size, __shfl_xor_sync(kAll, size, m));
    }
    if (size < A(INFINITY)) {
      const int most = sizeof(A) == 8 ? 1021 : 125;  // the inverse is a normal number
      const int exponent = size > A(0) ? ilogb(size) : 0;
      inverse = ldexp(A(1), exponent < -most ? most : -exponent);
    } else {
      inverse = not_a_number<A>();
    }
    n2 = A(0);
    ws.each([&](int, int, A w) { n2 += w * inverse * (w * inverse); });
    warp_sum(n2);
  }
  return terms_of(x, n2, inverse, mode);
}

constexpr int kWarps = 4;  // of a block

template <class T, int V, int E>
__global__ void __launch_bounds__(32 * kWarps)
    planar_flow_kernel(In<T> z, Parameters<T> p, In<T> b, Out<T> z_out, Out<Compute<T>> log_det, Out<Compute<T>> act,
                       int64_t B, int K, int D, int mode) {
  using A = Compute<T>;
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= B) {
    return;  // all lanes of the warp
  }
  Columns<T, V, E> zs, us, ws;
  zs.read(z + row * D, lane, D);
  us.read(p.u + row * p.u_row, lane, D);
  ws.read(p.w + row * p.w_row, lane, D);
  A total = 0, my_a = 0, my_s = 0, my_x = 0;  // my: of layer k, k % 32 the lane
  for (int k = 0; k < K; ++k) {
    const int next = k + 1 < K ? k + 1 : k;
    Columns<T, V, E> u_next, w_next;
    u_next.read(p.u + (row * p.u_row + next * p.u_layer), lane, D);
    w_next.read(p.w + (row * p.w_row + next * p.w_layer), lane, D);
    A x = 0, n2 = 0, a = 0;  // w.u, |w|^2, w.z
    ws.each([&](int e, int i, A w) {
      x += w * us.v[e][i];
      n2 += w * w;
      a += w * zs.v[e][i];
    });
    warp_sum(x, n2, a);
    a += widen(b[row * K + k]);
    const Terms<A> terms = layer_terms(ws, x, n2, mode);
    const A t = tanh(a);
    if (lane == k % 32) {
      my_a = a, my_s = terms.s, my_x = terms.shifted;
    }
    // Unconstrained, c = 0: NaN for an infinite w, as in the other modes.
    zs.each([&](int e, int i, A& zi) { zi += (us.v[e][i] + terms.c * (ws.v[e][i] * terms.inverse)) * t; });
    us = u_next, ws = w_next;
    if (k % 32 == 31 || k == K - 1) {
      if (lane <= k % 32) {
        act[row * K + (k - k % 32 + lane)] = my_a;
        total += log_abs_det(my_a, my_s, my_x, mode);
      }
    }
  }
  warp_sum(total);
  zs.write(z_out + row * D, lane, D);
  if (lane == 0) {
    log_det[row] = total;
  }
}

constexpr int kScalars =
    8;  // of a layer: c, inverse, n2, slope, tanh a, sech^2 a, and the log det's slopes by a and by w.u
template <class T>
constexpr size_t backward_bytes(int K, int D) {  // of shared memory, a warp
  return sizeof(Compute<T>) * K * (kScalars + D) + 32;
}

template <class T>
struct Gradients {
  In<T> z_out;             // [B, D]
  In<Compute<T>> log_det;  // [B]
  Out<T> z, u, w, b;
};

// At least one block a multiprocessor: left alone, ptxas spills a few bytes of fp64 to fit one more.
template <class T, int V, int E>
__global__ void __launch_bounds__(32 * kWarps, 1)
    planar_flow_backward_kernel(In<T> z, In<Compute<T>> act, Parameters<T> p, Gradients<T> g, int64_t B, int K, int D,
                                int mode) {
  using A = Compute<T>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp;
  SharedMemory memory;
  const Shared<A> states = memory.take<A>(warps * K * D) + warp * K * D;                 // [K, D]: before each layer
  const Shared<A> scalars = memory.take<A>(warps * K * kScalars) + warp * K * kScalars;  // [K, kScalars]
  if (row >= B) {
    return;
  }
  Columns<T, V, E> zs, us, ws;
  const auto at = [&](int e, int i) { return (32 * e + lane) * V + i; };
  zs.read(z + row * D, lane, D);
  const A gl = g.log_det[row];
  for (int k = 0; k < K; ++k) {
    us.read(p.u + (row * p.u_row + k * p.u_layer), lane, D);
    ws.read(p.w + (row * p.w_row + k * p.w_layer), lane, D);
    A x = 0, n2 = 0;
    ws.each([&](int e, int i, A w) {
      x += w * us.v[e][i];
      n2 += w * w;
    });
    warp_sum(x, n2);
    const Terms<A> terms = layer_terms(ws, x, n2, mode);
    const A a = act[row * K + k], t = tanh(a);
    zs.each([&](int e, int i, A& zi) {
      if (at(e, i) < D) {
        states[k * D + at(e, i)] = zi;
      }
      zi += (us.v[e][i] + terms.c * (ws.v[e][i] * terms.inverse)) * t;
    });
    if (lane == k % 32) {
      A by_a, by_x;
      log_det_slopes(a, terms, mode, by_a, by_x);
      const A all[kScalars] = {terms.c, terms.inverse, terms.n2, terms.slope, t, sech2(a), gl * by_a, gl * by_x};
#pragma unroll
      for (int i = 0; i < kScalars; ++i) {
        scalars[k * kScalars + i] = all[i];
      }
    }
  }
  __syncwarp();
  Columns<T, V, E> gs, gu, gw;
  gs.read(g.z_out + row * D, lane, D);
  for (int k = K - 1; k >= 0; --k) {
    us.read(p.u + (row * p.u_row + k * p.u_layer), lane, D);
    ws.read(p.w + (row * p.w_row + k * p.w_layer), lane, D);
    const Shared<A> s = scalars + k * kScalars;
    const A c = s[0], inverse = s[1], n2 = s[2], slope = s[3], t = s[4], h = s[5], la = s[6], lx = s[7];
    A by_uhat = 0, by_unit = 0;  // g.uhat, g.w / size
    ws.each([&](int e, int i, A w) {
      by_uhat += gs.v[e][i] * (us.v[e][i] + c * (w * inverse));
      by_unit += gs.v[e][i] * t * (w * inverse);
    });
    warp_sum(by_uhat, by_unit);
    const A ga = by_uhat * h + la, gx = lx + by_unit * (slope - A(1)) / n2 * inverse;
    ws.each([&](int e, int i, A w) {
      const A pulled = t * gs.v[e][i], state = at(e, i) < D ? static_cast<A>(states[k * D + at(e, i)]) : A(0);
      gu.v[e][i] = pulled + gx * w;
      gw.v[e][i] = ga * state + (c * pulled - A(2) * by_unit * c / n2 * (w * inverse)) * inverse + gx * us.v[e][i];
      gs.v[e][i] += ga * w;
    });
    gu.write(g.u + (row * K + k) * D, lane, D);
    gw.write(g.w + (row * K + k) * D, lane, D);
    if (lane == 0) {
      g.b[row * K + k] = narrow<T>(ga);
    }
  }
  gs.write(g.z + row * D, lane, D);
}

}  // namespace planar
