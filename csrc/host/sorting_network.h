// Many short sorts at once, on the best instruction set of this processor.
//
// A tile holds tile_width() groups side by side, row-major [rows, tile_width()]: group g is column g, the largest key
// below its values. A sorting network compares whole rows: a comparison is one vector minimum and one vector maximum.
#pragma once

#include <cstdint>

#include "host/float_keys.h"

namespace ordkernels::host {

constexpr int kMaxTileWidth = 16;

// Groups in a tile of 32-bit or 64-bit keys: 8 or 16.
template <class K>
int tile_width();

// The values group[g] [size[g]] as keys into column g of a tile. `end` is that of the array which the groups lie in.
// Writes up to 16 rows past `rows`, the longest group's size.
template <class F>
void load_tile(const F* const* group, const int64_t* size, int64_t rows, const F* end, key_of<F>* tile);

// Sorts each column of a tile downwards.
template <class K>
void sort_columns(K* tile, int64_t rows);

}  // namespace ordkernels::host
