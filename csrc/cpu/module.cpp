// The library `_C`: loading it, from Python or without, defines the schemas and registers the ops (each .cpp file its
// own). For Python it is also a module, an empty one.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include <string>

#include "common/isa.h"

// Only Python calls PyInit__C; a program without Python loads the library without these.
#pragma weak PyModule_Create2

// Of torch 2.12 and later, so it is not in the headers for 2.11.
extern "C" {
__attribute__((weak)) AOTITorchError torch_library_def_with_tags(TorchLibraryHandle self, const char* schema,
                                                                 const int32_t* tags, int32_t num_tags);
__attribute__((weak)) int32_t torch_tag_pt2_compliant_tag();
}

namespace {

constexpr const char* kSchemas[] = {
#include "schemas.inc"  // made by setup.py from ordkernels/_schemas.py
};

std::string isa_name() { return isa() == Isa::avx512 ? "avx512" : isa() == Isa::avx2 ? "avx2" : "base"; }

// Defines the schemas, and keeps them defined for as long as the library is loaded.
struct Definitions {
  TorchLibraryHandle library = nullptr;

  Definitions() {
    TORCH_ERROR_CODE_CHECK(aoti_torch_library_init_fragment("ordkernels", __FILE__, __LINE__, &library));
    for (const char* schema : kSchemas) {
      if (torch_library_def_with_tags) {
        const int32_t tag = torch_tag_pt2_compliant_tag();
        TORCH_ERROR_CODE_CHECK(torch_library_def_with_tags(library, schema, &tag, 1));
      } else {
        TORCH_ERROR_CODE_CHECK(aoti_torch_library_def(library, schema));
      }
    }
  }
  ~Definitions() { aoti_torch_delete_library_object(library); }
};

const Definitions definitions;

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CompositeExplicitAutograd, m) { m.impl("isa", TORCH_BOX(&isa_name)); }

extern "C" PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef def = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&def);
}
