// Kernels are compiled once for each instruction set, each in a namespace of its own; isa.h chooses between them.
#pragma once

// Declares `void name(parameters...)` in the namespace of each instruction set.
#define ORD_DECLARE_KERNEL(name, ...) \
  namespace base {                    \
  void name(__VA_ARGS__);             \
  }                                   \
  namespace avx2 {                    \
  void name(__VA_ARGS__);             \
  }                                   \
  namespace avx512 {                  \
  void name(__VA_ARGS__);             \
  }
