// CUDA C++ on the CPU, for tests. Included by device.h where nvcc does not compile: g++ 12 or later, no CUDA headers.
//
// Blocks run one after another in a random order. The threads of a block are fibers: each runs until it has to wait for
// others (a barrier, a warp collective), then any that is ready goes on, at random. Memory is reached through checked
// pointers: bounds and alignment; in shared memory also reads of what nobody wrote, and races (two threads, one of them
// writing, no barrier between), whatever the order. A failed check, a divergent barrier or a deadlock ends the launch
// with an exception that says where.
//
// ORDKERNELS_EMULATE_SEED=n: another order. ORDKERNELS_EMULATE_STATS=1: a line to stderr per launch, with the switches,
// the wavefronts of shared memory (bank conflicts) and the sectors of global memory. ORDKERNELS_EMULATE_TRAP=1: a
// failed check stops in the debugger.
#pragma once
#include "emulate/machine.h"

namespace emu {

// What -fsanitize=bounds calls for an index past a local array; hidden from the sanitizer's own library.
struct Place {
  const char* file;
  uint32_t line, column;
};
extern "C" [[gnu::used, gnu::weak]] void __ubsan_handle_out_of_bounds_abort(const Place* p, intptr_t index) {
  machine.fail("index %ld past the end of an array, %s:%u", static_cast<long>(index), p->file, p->line);
}

template <class T>
struct Checked {  // a pointer that knows its array
  T* base = nullptr;
  int64_t i = 0, n = 0;
  Checked() = default;
  Checked(T* p, int64_t index, int64_t count) : base(p), i(index), n(count) {}
  template <class U, class = std::enable_if_t<std::is_same_v<const U, T>>>
  Checked(const Checked<U>& o) : base(o.base), i(o.i), n(o.n) {}
  explicit operator bool() const { return base; }
  Checked operator+(int64_t k) const { return {base, i + k, n}; }

  T* check(int m, Kind kind) const {  // m neighbours from here on
    if (i < 0 || i + m > n) {
      machine.fail("%s elements %ld to %ld of an array of %ld", kind == kRead ? "reads" : "writes", i, i + m - 1, n);
    }
    if (reinterpret_cast<uintptr_t>(base + i) % (m * sizeof(T))) {
      machine.fail("misaligned: %zu bytes at element %ld", m * sizeof(T), i);
    }
    return base + i;
  }
  T* at(int m, Kind kind) const {  // about to be read or written
    T* const p = check(m, kind);
    machine.touch(p, sizeof(T), m, kind);
    return p;
  }
  struct Ref {  // tells reads from writes; a named one (`auto x = p[i];`) cannot be read
    Checked to;
    operator T() const&& { return *to.at(1, kRead); }
    void operator=(T x) const&& { *to.at(1, kWrite) = x; }
    void operator=(const Ref& o) { *to.at(1, kWrite) = *o.to.at(1, kRead); }
    void operator+=(T x) const&& { *to.at(1, kWrite) = *to.at(1, kRead) + x; }
  };
  std::conditional_t<std::is_const_v<T>, std::remove_const_t<T>, Ref> operator[](int64_t k) const {
    if constexpr (std::is_const_v<T>) {
      return *(*this + k).at(1, kRead);
    } else {
      return {*this + k};
    }
  }
};

template <class T>
T shuffle(const char* what, int line, uint32_t mask, T x, int from) {
  struct Swap {
    T in, out;
    int from;
  } mine{x, x, from};
  machine.rendezvous(mask, what, line, &mine, [=](void** all) {
    for (int l = 0; l < 32; ++l) {
      if (!(mask >> l & 1)) {
        continue;
      }
      Swap& s = *static_cast<Swap*>(all[l]);
      if (!(mask >> s.from & 1)) {
        machine.fail("%s of line %d: lane %d reads lane %d, which is not in the mask %08x", what, line, l, s.from,
                     mask);
      }
      s.out = static_cast<Swap*>(all[s.from])->in;
    }
  });
  return mine.out;
}

// c [16 x 8] += a [16 x K] b [K x 8], laid out over the lanes as the PTX manual has it. K = 8: TF32, whose 13 lower
// bits do not count; K = 16: bf16. The sum of the exact products is rounded once, towards zero.
template <int K>
void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line) {
  struct Fragments {
    float* c;
    const uint32_t *a, *b;
  } mine{c, a, b};
  machine.rendezvous(~0u, "mma", line, &mine, [](void** all) {
    float A[16][K], B[8][K];
    const auto put = [](float* row, int t, int half, uint32_t x) {
      if constexpr (K == 8) {
        row[t + 4 * half] = __builtin_bit_cast(float, x & ~0x1FFFu);
      } else {
        row[2 * t + 8 * half] = __builtin_bit_cast(float, x << 16),
                        row[2 * t + 8 * half + 1] = __builtin_bit_cast(float, x & ~0xFFFFu);
      }
    };
    for (int l = 0; l < 32; ++l) {
      const Fragments& f = *static_cast<Fragments*>(all[l]);
      for (int i = 0; i < 4; ++i) {
        put(A[l / 4 + i % 2 * 8], l % 4, i / 2, f.a[i]);
      }
      for (int i = 0; i < 2; ++i) {
        put(B[l / 4], l % 4, i, f.b[i]);
      }
    }
    for (int l = 0; l < 32; ++l) {
      for (int i = 0; i < 4; ++i) {
        float& out = static_cast<Fragments*>(all[l])->c[i];
        double sum = out;
        for (int k = 0; k < K; ++k) {
          sum += static_cast<double>(A[l / 4 + i / 2 * 8][k]) * B[l % 4 * 2 + i % 2][k];
        }
        out = static_cast<float>(sum);
        if (std::fabs(out) > std::fabs(sum)) {
          out = std::nextafterf(out, 0.0f);
        }
      }
    }
  });
}

}  // namespace emu
