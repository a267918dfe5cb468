// The rows that the diffusion ops go over, tile by tile: a tile is a run of whole rows b, or a part of one that is
// long. For each tile noise is generated and half types are converted to fp32, into small buffers that stay in the
// nearest cache; so the arithmetic is compiled for float and double alone.
#pragma once
#include "common/philox.h"
#include "cpu/diffusion_args.h"
#include "cpu/simd/convert.h"

namespace ORD_ISA {
namespace {

using diffusion::Rows;

ORD_INLINE double level_of(const diffusion::Levels& a, int64_t b, int64_t k) {
  if (!a.values) {
    return a.constant;
  }
  const int64_t i = b * a.stride_b + k * a.stride_k;
  return a.is_double ? ((const double*)a.values)[i] : ((const float*)a.values)[i];
}
ORD_INLINE bool constant_levels(const Rows& a) { return !a.t.values && !a.s.values; }

constexpr int64_t kHalfTile = 512;                   // most elements of a tile of a half type
constexpr int64_t kNoiseTile = 4 * philox::kBlocks;  // and of one with generated noise
constexpr int64_t kSlack = 16;                       // elements that may be read past a buffer's last

// ---- noise

static __attribute__((noinline)) void normals(const uint64_t* row, const uint64_t* block, uint64_t step, uint64_t seed,
                                              int n, float* to) {
  philox::blocks<true>(row, block, step, seed, n, to);
}

// The generated noise of a tile, rows `stride` apart. A row takes whole blocks of four.
template <class T>
struct NoiseTile {
  alignas(64) uint64_t row[philox::kBlocks] = {}, block[philox::kBlocks] = {};
  alignas(64) float floats[kNoiseTile + kSlack];
  alignas(64) T converted[sizeof(T) == 8 ? kNoiseTile + kSlack : 1];
  int64_t last_block = -1, last_rows = 0;  // what `block` holds
  int64_t stride = 0;

  // Of rows [b, b + rows), `blocks` blocks each from `first` on.
  const T* generate(const Rows& a, int64_t b, int64_t rows, int64_t first, int64_t blocks) {
    uint64_t* to = row;
    for (int64_t j = 0; j < rows; ++j, to += blocks) {
      const uint64_t id = a.row_ids ? (uint64_t)a.row_ids[b + j] : (uint64_t)(b + j);
      for (int64_t i = 0; i < blocks; ++i) {
        to[i] = id;
      }
    }
    if (first != last_block || rows > last_rows) {  // else they are there from the tile before
      for (int64_t j = 0; j < rows; ++j) {
        for (int64_t i = 0; i < blocks; ++i) {
          block[j * blocks + i] = first + i;
        }
      }
      last_block = first;
      last_rows = rows;
    }
    stride = 4 * blocks;
    normals(row, block, a.step, a.seed, (int)(rows * blocks), floats);
    if constexpr (sizeof(T) == 8) {
      for (int64_t i = 0; i < rows * stride; ++i) {
        converted[i] = floats[i];
      }
      return converted;
    } else {
      return floats;
    }
  }
};

// ---- tiles

// Elements [first, first + width) of the K D of rows [b, b + rows); several rows only if whole.
template <class T>
struct Tile {
  int64_t b, rows, first, width;
  const T* noise;  // generated, that of the tile's first element; else null
  int64_t noise_stride;
};

// f(tile) over all of rows [begin, end).
template <class T, class F>
ORD_INLINE void for_each_tile(const Rows& a, int64_t begin, int64_t end, F f) {
  const int64_t row_width = a.K * a.D;
  const int64_t capacity = a.generate_noise ? kNoiseTile : is_half(a.type) ? kHalfTile : (end - begin) * row_width;
  const int64_t columns = row_width < capacity ? row_width : capacity;
  const int64_t most_rows = a.generate_noise ? philox::kBlocks / ((columns + 3) / 4) : capacity / columns;
  NoiseTile<T> noise;
  for (int64_t b = begin; b < end; b += most_rows) {
    const int64_t rows = end - b < most_rows ? end - b : most_rows;
    for (int64_t first = 0; first < row_width; first += columns) {
      const int64_t width = row_width - first < columns ? row_width - first : columns;
      Tile<T> tile{b, rows, first, width, nullptr, 0};
      if (a.generate_noise) {
        tile.noise = noise.generate(a, b, rows, first / 4, (width + 3) / 4);
        tile.noise_stride = noise.stride;
      }
      f(tile);
    }
  }
}

// Inputs and outputs of a tile, N at most: in place where they are stored as T, else in buffers.
template <class T, int N>
struct TileData {
  const Rows& a;
  const int64_t first, n;
  int used = 0, outputs = 0;
  struct {
    void* tensor;
    const T* buffer;
  } output_buffers[N];
  alignas(64) T buffers[sizeof(T) == 4 ? N * (kHalfTile + kSlack) : 1];

  TileData(const Rows& rows, const Tile<T>& tile)
      : a(rows), first(tile.b * a.K * a.D + tile.first), n(tile.rows * tile.width) {}

  // Of tensors [B, K, D]; null for null.
  Elements<T> input(const void* tensor) {
    return read_elements<T>(a.type, tensor, first, n, a.B * a.K * a.D, tensor ? next_buffer() : nullptr);
  }
  T* output(void* tensor) {
    T* const to = place_for<T>(a.type, tensor, first, tensor ? next_buffer() : nullptr);
    if (tensor) {
      output_buffers[outputs++] = {tensor, to};
    }
    return to;
  }
  // To be called once all outputs are computed.
  void write_back() const {
    for (int i = 0; is_half(a.type) && i < outputs; ++i) {
      write_elements<T>(a.type, output_buffers[i].buffer, output_buffers[i].tensor, first, n);
    }
  }
  T* next_buffer() { return sizeof(T) == 4 ? buffers + used++ * (kHalfTile + kSlack) : nullptr; }
};

// ---- rows

// Elements [at, at + n) of a tile: those of row (b, k) from d on.
template <class T>
struct Piece {
  int64_t b, k, d, at, n;
  Elements<T> noise;  // from the caller or generated, that of the first element; or none
};

// f(piece) over a tile's rows, `noise` the caller's or none; `uniform`: all rows are one to f, and come as one where no
// noise is generated.
template <class T, class F>
ORD_INLINE void for_each_piece(const Rows& a, const Tile<T>& tile, Elements<T> noise, bool uniform, F f) {
  if (uniform && !tile.noise) {
    return f(Piece<T>{tile.b, 0, 0, 0, tile.rows * tile.width, noise});
  }
  const int64_t D = a.D, width = tile.width, rows = tile.rows, stride = tile.noise_stride;
  const int64_t first_k = tile.first ? tile.first / D : 0, first_d = tile.first ? tile.first % D : 0;
  const T* const generated = tile.noise;
  for (int64_t j = 0, at = 0; j < rows; ++j) {
    int64_t k = first_k, d = first_d;
    for (int64_t done = 0; done < width; ++k, d = 0) {
      const int64_t n = D - d < width - done ? D - d : width - done;
      const T* const e = generated + j * stride + done;
      f(Piece<T>{tile.b + j, k, d, at, n, generated ? Elements<T>{e, e + n + kSlack} : noise.from(at)});
      done += n;
      at += n;
    }
  }
}

// for_each_vector without unrolling, for the long bodies of backward passes: they wait for memory, and take a third of
// the time to compile.
template <class T, class F>
ORD_INLINE void for_each_vector_rolled(int64_t n, F f) {
  constexpr int W = kLanes<T>;
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    f(i, W);
  }
  if (i < n) {
    f(i, (int)(n - i));
  }
}

template <class T>
static void zero_dots(const Rows& a, void* dots, int64_t count, int64_t begin, int64_t end) {
  if (dots) {
    __builtin_memset((T*)dots + begin * a.K * count, 0, (end - begin) * a.K * count * sizeof(T));
  }
}

}  // namespace
}  // namespace ORD_ISA
