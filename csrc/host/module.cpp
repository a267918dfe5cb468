// The module `_host`: data-side kernels on NumPy arrays, without torch. Each file binds its own functions.
#include <pybind11/pybind11.h>

namespace ordkernels::host {
void bind_quantiles(pybind11::module_& m);
void bind_scores(pybind11::module_& m);
void bind_scores_histogram(pybind11::module_& m);
void bind_scores_pairs(pybind11::module_& m);
void bind_vocabulary(pybind11::module_& m);
}  // namespace ordkernels::host

PYBIND11_MODULE(_host, m) {
  m.doc() =
      "Data-side kernels of ordkernels on NumPy arrays. Use ordkernels.quantiles, .scores and .vocabulary; these "
      "functions check less.";
  ordkernels::host::bind_quantiles(m);
  ordkernels::host::bind_scores(m);
  ordkernels::host::bind_scores_histogram(m);
  ordkernels::host::bind_scores_pairs(m);
  ordkernels::host::bind_vocabulary(m);
}
