#include "host/sorting_network.h"

#include "common/isa.h"

#define ORD_LOOPS "host/sorting_network_loops.h"
#include "host/per_isa.h"

namespace ordkernels::host {

template <class K>
int tile_width() {
  return ORD_DISPATCH(kTileWidth<K>);
}

template <class F>
void load_tile(const F* const* group, const int64_t* size, int64_t rows, const F* end, key_of<F>* tile) {
  ORD_DISPATCH(load_tile(group, size, rows, end, tile));
}

template <class K>
void sort_columns(K* tile, int64_t rows) {
  ORD_DISPATCH(sort_columns(tile, rows));
}

template int tile_width<int32_t>();
template int tile_width<int64_t>();
template void load_tile(const float* const*, const int64_t*, int64_t, const float*, int32_t*);
template void load_tile(const double* const*, const int64_t*, int64_t, const double*, int64_t*);
template void sort_columns(int32_t*, int64_t);
template void sort_columns(int64_t*, int64_t);

}  // namespace ordkernels::host
