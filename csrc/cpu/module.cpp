// The module `_C`: empty for Python; loading it registers the ops (each .cpp file registers its own).
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include <string>

#include "common/isa.h"

namespace {
std::string isa_name() { return isa() == Isa::avx512 ? "avx512" : isa() == Isa::avx2 ? "avx2" : "base"; }
}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CompositeExplicitAutograd, m) { m.impl("isa", TORCH_BOX(&isa_name)); }

extern "C" PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef def = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&def);
}
