// value_decode: a persistent block has R slots; a row takes one from SOS until it ends, then the slot's next row
// follows.
//
// So rows of a tile are at positions of their own, finished rows are retired at once, and keys and values take R slots
// of workspace for each block, whatever the number of rows.
#pragma once
#include "decoder_tokens.h"

namespace decoder {

template <class A>
struct Decode {
  Reading<A> how;
  In<A> constants, capacity;      // [B, L, n]: what attention to the memory adds; [B] or null
  In<int64_t> row_ids, draw_ids;  // [B] or null
  Out<A> workspace, value;        // [blocks, L, steps, 2, R, n], [B]
  Out<int64_t> tokens, lengths;   // [B, steps], of zeros, and [B]
  int64_t B;
  int steps;
  A cap;
};

template <int R, class A>
struct Slots {
  Shared<int64_t> row;  // or -1
  Shared<int> at, length;
  Shared<A> total, read, remaining;
  __device__ __forceinline__ explicit Slots(SharedMemory& memory)
      : row(memory.take<int64_t>(R)),
        at(memory.take<int>(R)),
        length(memory.take<int>(R)),
        total(memory.take<A>(R)),
        read(memory.take<A>(R)),
        remaining(memory.take<A>(R)) {}
};

template <int R, class A>
size_t shared_bytes(int n, int width) {  // width: of the scratch rows
  return R * ((2 * stride_of(n) + stride_of(width) + 3) * sizeof(A) + 16) + 128;
}

template <class A>
__device__ __forceinline__ A capacity_of(const Decode<A>& a, int64_t row) {
  return a.capacity ? static_cast<A>(a.capacity[row]) : a.cap;
}

// A warp's: the slot r begins with a row, if there is one: its first input is SOS.
template <int R, class A>
__device__ __forceinline__ void start_row(const Network<A>& net, const Decode<A>& a, const Slots<R, A>& slots,
                                          const Rows<A>& x, int r, int64_t row) {
  const int lane = threadIdx.x % 32;
  const bool any = row < a.B;
  for (int i = lane; i < net.n; i += 32) {
    const A first = net.position ? static_cast<A>(net.position[i]) : A(0);
    x[r][i] = any ? net.embedding[kSOS * net.n + i] + first : A(0);
  }
  if (lane == 0) {
    slots.row[r] = any ? row : -1;
    slots.at[r] = 0, slots.length[r] = 0, slots.total[r] = 0, slots.read[r] = 0;
    slots.remaining[r] = any ? capacity_of(a, row) : A(0);
  }
}

// A warp's: the token after the slot's logits; then the row's next input, or the slot's next row.
template <int R, class A>
__device__ __forceinline__ void next_token(const Network<A>& net, const Decode<A>& a, const Slots<R, A>& slots,
                                           const Rows<A>& x, Shared<A> logits, int r) {
  const int lane = threadIdx.x % 32, at = slots.at[r];
  const int64_t row = slots.row[r];
  if (row < 0) {
    return;
  }
  const bool sampled = a.how.temperature > A(0);
  const Choice choice =
      choose<A>(a.how, logits, net.V, slots.remaining[r], sampled ? a.row_ids[row] : INT64_C(0),
                a.draw_ids ? static_cast<int64_t>(a.draw_ids[row]) : INT64_C(0), static_cast<uint32_t>(at + 1));
  const int token = choice.token;
  const A gain = a.how.values[token], limit = capacity_of(a, row);
  A total = slots.total[r] + gain, read = slots.read[r];
  if (a.how.windowed) {
    read += window_value(a.how, logits, net.V, token);
  }
  if (choice.has_nan) {
    total = read = not_a_number<A>();
  }
  const bool goes_on = !choice.has_nan && token != kEOS, ends = !goes_on || at + 1 == a.steps;
  const int length = slots.length[r] + goes_on;
  if (ends) {
    A result = a.how.windowed ? read : total;
    if (a.how.constrained && (limit != limit || (a.how.windowed && limit < result))) {
      result = limit;
    }
    if (lane == 0) {
      a.value[row] = result;
      a.lengths[row] = length;
    }
  }
  if (lane == 0 && !choice.has_nan) {
    a.tokens[row * a.steps + at] = token;
  }
  __syncwarp();  // the slot has been read
  if (ends) {
    start_row(net, a, slots, x, r, row + static_cast<int64_t>(gridDim.x) * R);
    return;
  }
  if (a.how.mixup != kNone) {
    mix_embeddings(a.how, net.embedding, logits, net.V, token, x[r], net.n);
  }
  for (int i = lane; i < net.n; i += 32) {
    A input = a.how.mixup == kNone ? net.embedding[static_cast<int64_t>(token) * net.n + i] : static_cast<A>(x[r][i]);
    if (net.position) {
      input += net.position[static_cast<int64_t>(at + 1) * net.n + i];
    }
    x[r][i] = input;
  }
  if (lane == 0) {
    const A left = limit - total;
    slots.at[r] = at + 1, slots.length[r] = length, slots.total[r] = total, slots.read[r] = read;
    slots.remaining[r] = a.how.monotone && gain < left ? gain : left;  // NaN stays
  }
}

template <int R, class A>
__global__ void __launch_bounds__(kThreads, 1)  // left alone, ptxas spills to fit two blocks
    value_decode_kernel(const Network<A> net, const Decode<A> a, int width) {
  SharedMemory memory;
  const Slots<R, A> slots(memory);
  const int n = net.n, narrow_stride = stride_of(n), wide_stride = stride_of(width);
  const Rows<A> x{memory.take<A>(R * narrow_stride), narrow_stride};
  const Rows<A> y{memory.take<A>(R * narrow_stride), narrow_stride};
  const Rows<A> wide{memory.take<A>(R * wide_stride), wide_stride};
  const Rows<A> last{net.pre ? y.data : x.data, narrow_stride};
  const Cache<A> cache{a.workspace + static_cast<int64_t>(blockIdx.x) * net.L * a.steps * 2 * R * n, a.steps};
  each_row<R>([&](int r) { start_row(net, a, slots, x, r, static_cast<int64_t>(blockIdx.x) * R + r); });
  __syncthreads();
  const auto active = [&] {  // the same in every warp
    const int lane = threadIdx.x % 32;
    return __ballot_sync(kAll, lane < R && slots.row[lane % R] >= 0) != 0;
  };
  while (active()) {
    for (int layer = 0; layer < net.L; ++layer) {
      run_layer<R>(net, layer, cache, x, y, wide, slots.at, [&](int r) {
        const int64_t row = slots.row[r];
        return row < 0 ? In<A>{} : a.constants + (row * net.L + layer) * n;
      });
    }
    if (net.pre) {
      each_row<R>([&](int r) { layer_norm<A>(x[r], y[r], net.last, net.d, n, net.eps); });
      __syncthreads();
    }
    linear<R>(last, net.head_w, net.head_b, net.V, n, [&](int r, int column, A value) { wide[r][column] = value; });
    __syncthreads();
    each_row<R>([&](int r) { next_token(net, a, slots, x, wide[r], r); });
    __syncthreads();
  }
}

}  // namespace decoder
