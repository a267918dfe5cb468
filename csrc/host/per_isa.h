// Includes the file ORD_LOOPS once per instruction set (not AVX-512 where ORD_WITHOUT_AVX512 is defined), with ORD_ISA
// naming the namespace, ORD_TARGET the function attribute and ORD_BYTES the width of its vectors. Such a file has no
// include guard, and no std headers, whose inline functions could leak wide instructions into the rest of the module.

#define ORD_ISA base
#define ORD_TARGET
#define ORD_BYTES 16
#include ORD_LOOPS
#undef ORD_ISA
#undef ORD_TARGET
#undef ORD_BYTES

#define ORD_ISA avx2
#define ORD_TARGET __attribute__((target("avx2")))
#define ORD_BYTES 32
#include ORD_LOOPS
#undef ORD_ISA
#undef ORD_TARGET
#undef ORD_BYTES

#ifndef ORD_WITHOUT_AVX512
#define ORD_ISA avx512
#define ORD_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#define ORD_BYTES 64
#include ORD_LOOPS
#undef ORD_ISA
#undef ORD_TARGET
#undef ORD_BYTES
#endif

#undef ORD_LOOPS
