// The vectorised loops of scores.cpp. Included once per instruction set there, with ORD_ISA naming the namespace and
// ORD_TARGET the function attribute; hence no include guard, and no std headers (see lane_sort.h).
//
// Sums run in eight fixed lanes, so they are the same on every instruction set; without AVX-512, whose fused
// multiply-add rounds otherwise.

namespace ordkernels::host::ORD_ISA {

// Of n rows, at most one block: sums of |y - p|, (y - p)^2, and how many |y - p| <= theta.
template <class F>
ORD_TARGET void block_errors(const F* __restrict y, const F* __restrict p, int64_t n, double theta, double* sums,
                             int64_t* within) {
  double a[8] = {}, s[8] = {}, c[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
#pragma omp simd
    for (int l = 0; l < 8; ++l) {
      const double d = static_cast<double>(y[i + l]) - static_cast<double>(p[i + l]), size = __builtin_fabs(d);
      a[l] += size;
      s[l] += d * d;
      c[l] += size <= theta ? 1.0 : 0.0;
    }
  }
  for (int l = 0; i < n; ++i, ++l) {
    const double d = static_cast<double>(y[i]) - static_cast<double>(p[i]), size = __builtin_fabs(d);
    a[l] += size, s[l] += d * d, c[l] += size <= theta ? 1.0 : 0.0;
  }
  sums[0] = ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
  sums[1] = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
  double count = 0;
  for (int l = 0; l < 8; ++l) {
    count += c[l];
  }
  *within = static_cast<int64_t>(count);
}

// Of n > 0 rows: their means, and sums of squares and products about them: my, mp, yy, pp, yp. Differences from the
// first row keep a constant column's sums at exactly 0.
template <class F>
ORD_TARGET void block_moments(const F* __restrict y, const F* __restrict p, int64_t n, double* out) {
  const double y0 = y[0], p0 = p[0];
  double a[8] = {}, b[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
#pragma omp simd
    for (int l = 0; l < 8; ++l) {
      a[l] += static_cast<double>(y[i + l]) - y0, b[l] += static_cast<double>(p[i + l]) - p0;
    }
  }
  for (int l = 0; i < n; ++i, ++l) {
    a[l] += y[i] - y0, b[l] += p[i] - p0;
  }
  const double my = (((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))) / static_cast<double>(n);
  const double mp = (((b[0] + b[4]) + (b[2] + b[6])) + ((b[1] + b[5]) + (b[3] + b[7]))) / static_cast<double>(n);
  double yy[8] = {}, pp[8] = {}, yp[8] = {};
  for (i = 0; i + 8 <= n; i += 8) {
#pragma omp simd
    for (int l = 0; l < 8; ++l) {
      const double u = (static_cast<double>(y[i + l]) - y0) - my, v = (static_cast<double>(p[i + l]) - p0) - mp;
      yy[l] += u * u;
      pp[l] += v * v;
      yp[l] += u * v;
    }
  }
  for (int l = 0; i < n; ++i, ++l) {
    const double u = (y[i] - y0) - my, v = (p[i] - p0) - mp;
    yy[l] += u * u, pp[l] += v * v, yp[l] += u * v;
  }
  out[0] = y0 + my;
  out[1] = p0 + mp;
  out[2] = ((yy[0] + yy[4]) + (yy[2] + yy[6])) + ((yy[1] + yy[5]) + (yy[3] + yy[7]));
  out[3] = ((pp[0] + pp[4]) + (pp[2] + pp[6])) + ((pp[1] + pp[5]) + (pp[3] + pp[7]));
  out[4] = ((yp[0] + yp[4]) + (yp[2] + yp[6])) + ((yp[1] + yp[5]) + (yp[3] + yp[7]));
}

}  // namespace ordkernels::host::ORD_ISA
