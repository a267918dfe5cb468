// What AdamW's kernels work on; the same types in every instruction set.
#pragma once
#include <cstdint>

// A step's numbers: p goes to p - p decay - rate m / (sqrt(v) root + eps), and the average of p to it by the share
// `weight`. (The decay, not 1 less it: that is rounded too coarsely in fp32.)
struct AdamwStep {
  double decay, rate, root, weight;
};

// A run of elements of one parameter; mean may be null, g only for rows.
struct AdamwRun {
  bool is_double;
  int64_t n;
  void *p, *m, *v, *mean;
  const void* g;
};

struct AdamwBetas {
  double beta1, beta2, eps, scale;  // of the gradients
};

// Rows of a table: each goes from the steps that it has made to the last one without a gradient, or all make the last
// one with theirs.
struct AdamwRows {
  AdamwRun table;       // of all rows; g: of the rows at hand
  int64_t W;            // of a row
  const int64_t* rows;  // distinct; null: all
  int64_t* last;        // of every row: the steps that it has made
  const AdamwStep* steps;
  int64_t step_count;
  const double* rest;  // [step_count + 1, 3]: of steps from one on that only decay, decay, keep and share
};
