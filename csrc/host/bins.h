// The bin of a number among sorted edges.
#pragma once

#include <cstdint>
#include <vector>

namespace ordkernels::host {

// A number's bin is how many inner edges are at most it. A grid over the edges' range says which edges to compare it
// with: one, where the grid keeps the edges apart.
template <class F>
class Bins {
 public:
  static constexpr int64_t kBlock = 256;  // numbers looked up at once, at most

  // edges [M+1], rising: of M bins.
  Bins(const double* edges, int64_t count);

  int64_t size() const { return static_cast<int64_t>(inner_.size()) + 1; }

  // bin [n] of each x [n], n up to kBlock, always below size(); whether any x is NaN, whose bin means nothing.
  bool operator()(const F* __restrict x, int64_t n, uint32_t* __restrict bin) const;

 private:
  static constexpr int64_t kMaxCells = 2048;
  struct Cell {  // of the grid: its only edge, NaN if there is none, and how many edges come before it
    F edge;
    uint32_t before;
  };

  static F at_least(double edge);
  int32_t cell(F x) const;
  bool count_edges();
  uint32_t search(F x) const;

  std::vector<double> inner_;    // [M-1]
  std::vector<uint32_t> first_;  // [cells_ + 1]: the edges before each cell
  std::vector<Cell> grid_;       // [cells_], where the edges are apart
  int64_t cells_ = 0;
  F low_ = 0, scale_ = 0;
  bool apart_ = false;
};

}  // namespace ordkernels::host
