// Threads for the data-side kernels: started for one call and joined before it returns, so that none survives a fork.
#pragma once

#include <cstdint>

namespace ordkernels::host {

// A reference to a callable of a chunk's number, so that parallel_for is no template and compiles once.
class ChunkFunction {
 public:
  template <class F>
  ChunkFunction(const F& f)  // NOLINT: converts from any lambda
      : object_(&f), call_([](const void* object, int64_t chunk) { (*static_cast<const F*>(object))(chunk); }) {}
  void operator()(int64_t chunk) const { call_(object_, chunk); }

 private:
  const void* object_;
  void (*call_)(const void*, int64_t);
};

// Calls body(chunk) for every chunk in [0, chunks), handed out in order to `threads` threads, the caller among them.
// A std::bad_alloc of any thread, the one exception that a body may throw, stops the hand-out and is thrown here.
void parallel_for(int64_t chunks, int threads, ChunkFunction body);

}  // namespace ordkernels::host
