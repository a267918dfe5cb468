// Scores rows with a model that export.py has compiled. No Python: it loads libtorch and ordkernels' native library.
//
//   score LIBRARY MODEL.pt2 INPUTS.pt [ROWS]
//
// LIBRARY: ordkernels/_C.abi3.so of an installed package. INPUTS: a list of tensors, the row ids and then the features,
// by `torch.save`. ROWS: of a batch, by default all at once. Prints the predictions, a row on each line.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void load_operators(const char* library) {
  if (dlopen(library, RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(std::string("LIBRARY: ") + dlerror());
  }
}

std::vector<at::Tensor> read_tensors(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error(std::string("INPUTS: cannot read ") + path);
  }
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const at::IValue list = torch::jit::pickle_load(bytes);
  std::vector<at::Tensor> tensors;
  for (const at::IValue& value : list.toListRef()) {
    tensors.push_back(value.toTensor());
  }
  if (tensors.empty()) {
    throw std::runtime_error("INPUTS: expected the row ids and the features, got no tensors");
  }
  return tensors;
}

void print_rows(const at::Tensor& predictions) {
  const at::Tensor table = predictions.reshape({predictions.size(0), -1}).to(at::kDouble).contiguous();
  const double* value = table.const_data_ptr<double>();
  for (int64_t row = 0; row < table.size(0); ++row) {
    for (int64_t column = 0; column < table.size(1); ++column) {
      std::printf(column ? "\t%.9g" : "%.9g", *value++);
    }
    std::printf("\n");
  }
}

void score(const char* model, const std::vector<at::Tensor>& inputs, int64_t rows) {
  torch::inductor::AOTIModelPackageLoader loader(model);
  const int64_t all = inputs[0].size(0);
  for (int64_t begin = 0; begin < all; begin += rows) {
    std::vector<at::Tensor> batch;
    for (const at::Tensor& input : inputs) {
      batch.push_back(input.slice(0, begin, std::min(begin + rows, all)));
    }
    print_rows(loader.run(batch)[0]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4 || argc > 5) {
    std::fprintf(stderr, "usage: %s LIBRARY MODEL.pt2 INPUTS.pt [ROWS]\n", argv[0]);
    return 2;
  }
  try {
    load_operators(argv[1]);
    const std::vector<at::Tensor> inputs = read_tensors(argv[3]);
    const int64_t rows = argc == 5 ? std::stoll(argv[4]) : std::max<int64_t>(inputs[0].size(0), 1);
    if (rows < 1) {
      throw std::runtime_error("ROWS: expected at least 1, got " + std::string(argv[4]));
    }
    score(argv[2], inputs, rows);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
