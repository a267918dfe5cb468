// The emulated machine: blocks, fibers, barriers, collectives, and the record of what was done to shared memory
// (emulate.h).
#pragma once
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#define __global__
#define __host__
#define __device__ inline
#define __forceinline__ __attribute__((always_inline))
#define __launch_bounds__(...)
#define threadIdx (emu::machine.now->at)
#define blockIdx (emu::machine.at)
#define blockDim (emu::machine.block)
#define gridDim (emu::machine.grid)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emu {

constexpr size_t kStack = 256 << 10, kStatic = 48 << 10, kMostShared = 227 << 10;  // bytes
enum Kind { kRead, kWrite, kAtomic };

struct Stamp {  // of an access: which thread, in which interval between block barriers, and between warp barriers
                // within that
  uint32_t phase = 0, step : 20 = 0, thread : 11 = 0, atomic : 1 = 0;
  bool races(Stamp b) const {
    return phase == b.phase && thread != b.thread && (thread / 32 != b.thread / 32 || step == b.step) &&
           !(atomic && b.atomic);
  }
};
struct Cell {  // what happened to two bytes of shared memory
  Stamp write, read[2];
};
struct Copy {  // a cp.async under way
  int group, bytes, element;
  void* to;
  const void* from;
};
struct Fiber {
  void* stack = nullptr;  // where it stopped
  ucontext_t context;     // the same, on processors other than x86-64
  uint3 at{};
  int id = 0, line = 0, group = 0;
  const char* waits = nullptr;  // for what
  std::vector<Copy> copies;
  std::vector<std::pair<uintptr_t, int>> trace[2];  // addresses, bytes; global, shared: since the last collective
};
struct Rendezvous {  // of the lanes of a warp, in one call
  uint32_t mask, here;
  const char* what;
  int line;
  void* args[32];
};
struct Warp {
  uint32_t step = 0;
  std::vector<Rendezvous> pending;
};

#if defined(__x86_64__) && !defined(ORD_UCONTEXT)
// Five times as fast as setjmp; swapcontext makes system calls.
__attribute__((naked, noipa, unused)) static void swap_stacks(void** /*from*/, void* /*to*/) {
  asm("push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
      "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret");
}
inline void swap(Fiber& from, Fiber& to) { swap_stacks(&from.stack, to.stack); }
inline void start(Fiber& f, char* stack, void (*entry)()) {
  void** const top =
      reinterpret_cast<void**>(stack + kStack - 64 - f.id * 1088 % 32768);  // not all in the same sets of the caches
  top[-1] = nullptr, top[-2] = reinterpret_cast<void*>(entry), f.stack = top - 8;
}
#else
inline void swap(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }
inline void start(Fiber& f, char* stack, void (*entry)()) {
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = stack, f.context.uc_stack.ss_size = kStack, f.context.uc_link = nullptr;
  makecontext(&f.context, entry, 0);
}
#endif

struct Machine {
  std::mutex launching;  // one at a time
  const char* kernel = "";
  dim3 grid, block;
  uint3 at{};
  Fiber home, *now = &home;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Fiber*> ready;
  int count = 0, arrived = 0, returned = 0, barrier = 0;
  uint32_t phase = 0, first = 0;  // goes up at every block barrier; of this block
  char* stacks = nullptr;
  void (*call)(void*) = nullptr;
  void* body = nullptr;
  std::string error;
  uint64_t random = 0;
  std::vector<unsigned char> shared;  // dynamic, then static
  std::vector<Cell> cells;
  size_t dynamic = 0, fixed = 0;
  std::vector<std::pair<const void*, size_t>> places;  // of static arrays
  bool stats = false;
  long switches = 0, moved[2] = {}, ideal[2] = {};  // sectors of global memory, wavefronts of shared memory

  uint32_t draw(uint64_t n) {  // xorshift64*
    random ^= random >> 12, random ^= random << 25, random ^= random >> 27;
    return static_cast<uint32_t>((random * 0x2545F4914F6CDD1Du >> 32) * n >> 32);
  }

  [[noreturn, gnu::noinline, gnu::cold, gnu::format(printf, 2, 3)]] void fail(const char* format, ...) {
    if (now == &home || std::getenv("ORDKERNELS_EMULATE_TRAP")) {
      __builtin_trap();
    }
    char text[512], who[128];
    va_list list;
    va_start(list, format), std::vsnprintf(text, sizeof text, format, list), va_end(list);
    std::snprintf(who, sizeof who, "%s: block (%u, %u, %u), thread %d: ", kernel, at.x, at.y, at.z, now->id);
    error = std::string(who) + text;
    swap(*now, home);  // for good: what is on the stacks is dropped
    __builtin_unreachable();
  }

  [[gnu::noinline]] void next() {  // lets another thread go on; comes back when this one is picked
    if (ready.empty()) {
      stuck();
    }
    const uint32_t i = draw(ready.size());
    Fiber *const from = now, *const to = ready[i];
    ready[i] = ready.back(), ready.pop_back();
    if (to == from) {
      return;
    }
    now = to, ++switches;
    swap(*from, *to);
  }
  void wait(const char* what, int line) { now->waits = what, now->line = line, next(); }
  void wake(Fiber& f) { f.waits = nullptr, ready.push_back(&f); }

  [[noreturn]] void stuck() {
    std::map<std::string, int> groups;
    for (int i = 0; i < count; ++i) {
      ++groups[fibers[i].waits + (fibers[i].line ? " of line " + std::to_string(fibers[i].line) : std::string())];
    }
    std::string text;
    for (const auto& [where, n] : groups) {
      text += (text.empty() ? "" : ", ") + std::to_string(n) + " at " + where;
    }
    fail("deadlock, threads wait for others that do not come: %s", text.c_str());
  }

  void sync_block(int line) {
    if (returned) {
      fail("__syncthreads of line %d, but %d threads have returned", line, returned);
    }
    if (arrived && line != barrier) {
      fail("divergent: __syncthreads of line %d, while others wait in that of line %d", line, barrier);
    }
    barrier = line;
    if (++arrived < count) {
      return wait("__syncthreads", line);
    }
    arrived = 0, ++phase;
    for (int w = 0; w < static_cast<int>(warps.size()); ++w) {
      warps[w].step = 0;
      if (stats) {
        tally(w);
      }
    }
    for (int i = 0; i < count; ++i) {
      wake(fibers[i]);
    }
    next();
  }

  // The lanes of `mask` come together; the last to come does together(args of all), then they go on.
  template <class F>
  void rendezvous(uint32_t mask, const char* what, int line, void* mine, F together) {
    const int w = now->id / 32, lane = now->id % 32;
    if (!(mask >> lane & 1)) {
      fail("%s of line %d: lane %d is not in its mask %08x", what, line, lane, mask);
    }
    Rendezvous* m = nullptr;
    for (Rendezvous& o : warps[w].pending) {
      if (!(o.mask & mask)) {
        continue;
      }
      if (o.mask != mask || o.what != what || o.line != line) {
        fail("%s of line %d, mask %08x, while others of the warp wait in %s of line %d, mask %08x", what, line, mask,
             o.what, o.line, o.mask);
      }
      m = &o;
    }
    if (!m) {
      m = &warps[w].pending.emplace_back(Rendezvous{mask, 0, what, line, {}});
    }
    m->here |= 1u << lane, m->args[lane] = mine;
    if (m->here != mask) {
      return wait(what, line);
    }
    together(m->args);
    *m = warps[w].pending.back(), warps[w].pending.pop_back();
    if (stats && mask == ~0u) {
      tally(w);
    }
    for (int l = 0; l < 32; ++l) {
      if (mask >> l & 1) {
        wake(fibers[32 * w + l]);
      }
    }
    next();
  }

  [[gnu::noinline]] void touch(const void* p, int element, int n, Kind kind) {  // before an access to n elements
    const size_t offset = static_cast<size_t>(static_cast<const unsigned char*>(p) - shared.data());
    const bool here = offset < shared.size();
    if (stats) {
      now->trace[here].push_back({here ? offset : reinterpret_cast<uintptr_t>(p), n * element});
    }
    if (!here) {
      return;
    }
    Stamp me;
    me.phase = phase, me.step = warps[now->id / 32].step, me.thread = now->id, me.atomic = kind == kAtomic;
    const char* const does = kind == kRead ? "reads" : "writes";
    for (int i = 0; i < n; ++i) {
      const size_t byte = offset + static_cast<size_t>(i * element);
      Cell& c = cells[byte / 2];
      if (kind != kWrite && c.write.phase < first) {
        fail("reads byte %zu of shared memory, which nobody wrote", byte);
      }
      if (c.write.races(me)) {
        fail("race: %s byte %zu of shared memory, which thread %d wrote, no barrier between", does, byte,
             c.write.thread);
      }
      if (kind == kRead) {
        if (c.read[0].thread != me.thread) {
          c.read[1] = c.read[0];
        }
        c.read[0] = me;
        continue;
      }
      for (const Stamp& r : c.read) {
        if (r.races(me)) {
          fail("race: %s byte %zu of shared memory, which thread %d reads, no barrier between", does, byte, r.thread);
        }
      }
      c.write = me;
    }
  }

  // The accesses of a warp since its last collective: where all lanes made as many, the i-th of each are taken for one
  // instruction.
  void tally(int w) {
    Fiber* const f = &fibers[32 * w];
    const int lanes = std::min(32, count - 32 * w);
    for (int kind = 0; kind < 2; ++kind) {
      const size_t n = f->trace[kind].size();
      const bool even =
          lanes == 32 && std::all_of(f, f + lanes, [&](const Fiber& g) { return g.trace[kind].size() == n; });
      for (size_t i = 0; even && i < n; ++i) {
        const int bytes = f->trace[kind][i].second, at_once = kind ? std::min(32, 128 / bytes) : 32;
        std::vector<uintptr_t> units;  // different words of a quarter, half or whole warp; different sectors of a warp
        for (int l = 0; l < 32; ++l) {
          for (int b = 0; b < bytes; b += 4) {
            units.push_back((f[l].trace[kind][i].first + b) / (kind ? 4 : 32));
          }
          if ((l + 1) % at_once) {
            continue;
          }
          std::sort(units.begin(), units.end()), units.erase(std::unique(units.begin(), units.end()), units.end());
          int banks[32] = {};
          for (uintptr_t u : units) {
            ++banks[u % 32];
          }
          moved[kind] += kind ? *std::max_element(banks, banks + 32) : static_cast<int>(units.size());
          ideal[kind] += kind ? 1 : std::min(bytes, static_cast<int>(units.size()));
          units.clear();
        }
      }
      for (int l = 0; l < lanes; ++l) {
        f[l].trace[kind].clear();
      }
    }
  }

  size_t place(const void* key, size_t bytes) {  // of a static array
    for (const auto& [k, offset] : places) {
      if (k == key) {
        return offset;
      }
    }
    places.emplace_back(key, fixed), fixed += (bytes + 15) / 16 * 16;
    if (fixed > shared.size()) {
      fail("more than %zu bytes of static shared memory", kStatic);
    }
    return places.back().second;
  }

  void land(const Copy& c) { touch(c.to, c.element, c.bytes / c.element, kWrite), std::memcpy(c.to, c.from, c.bytes); }

  static void thread_main();

  void run_block(uint3 b) {
    at = b, arrived = returned = 0, first = ++phase, fixed = (dynamic + 15) / 16 * 16;
    ready.clear(), places.clear(), warps.assign((count + 31) / 32, {});
    std::fill(shared.begin(), shared.end(), 0xFF);  // NaN
    for (int i = 0; i < count; ++i) {
      Fiber& f = fibers[i];
      f.id = i, f.line = f.group = 0, f.waits = "its start", f.copies.clear(), f.trace[0].clear(), f.trace[1].clear();
      f.at = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
      start(f, stacks + i * kStack, thread_main), ready.push_back(&f);
    }
    now = &home;
    next();  // back when all have returned, or one has failed
    now = &home;
  }

  void run(const char* name, dim3 g, dim3 b, size_t bytes, void (*f)(void*), void* argument) {
    const std::lock_guard<std::mutex> lock(launching);
    kernel = name, grid = g, block = b, call = f, body = argument, dynamic = bytes, error.clear();
    const size_t blocks = static_cast<size_t>(g.x) * g.y * g.z;
    count = static_cast<int>(b.x * b.y * b.z);
    if (count < 1 || count > 1024 || !blocks || g.x > 0x7FFFFFFF || g.y > 65535 || g.z > 65535 || bytes > kMostShared) {
      throw std::runtime_error(std::string(name) + ": no such launch: " + std::to_string(count) + " threads, " +
                               std::to_string(bytes) + " bytes");
    }
    if (!stacks) {
      stacks = static_cast<char*>(
          mmap(nullptr, 1024 * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      for (int i = 0; i < 1024; ++i) {
        mprotect(stacks + i * kStack, 4096, PROT_NONE);
      }
    }
    fibers.resize(std::max<size_t>(fibers.size(), count)), shared.resize((bytes + 15) / 16 * 16 + kStatic),
        cells.resize(shared.size() / 2);
    const char *const seed = std::getenv("ORDKERNELS_EMULATE_SEED"), *const tell =
                                                                         std::getenv("ORDKERNELS_EMULATE_STATS");
    random = 0x9E3779B97F4A7C15u * ((seed ? std::strtoull(seed, nullptr, 0) : 0) + 1);
    stats = tell && *tell == '1', switches = moved[0] = moved[1] = ideal[0] = ideal[1] = 0;
    std::vector<uint32_t> order(blocks);
    for (size_t i = 0; i < blocks; ++i) {
      order[i] = static_cast<uint32_t>(i), std::swap(order[i], order[draw(i + 1)]);
    }
    for (size_t i = 0; i < blocks && error.empty(); ++i) {
      run_block({order[i] % g.x, order[i] / g.x % g.y, order[i] / (g.x * g.y)});
    }
    if (!error.empty()) {
      throw std::runtime_error(error);
    }
    if (stats) {
      std::fprintf(stderr,
                   "%s: %zu blocks of %d threads, %ld switches; wavefronts %ld of %ld, sectors %ld of %ld at best\n",
                   name, blocks, count, switches, moved[1], ideal[1], moved[0], ideal[0]);
    }
  }
};

inline Machine machine;

inline void Machine::thread_main() {
  Machine& m = machine;
  m.call(m.body);
  if (!m.now->copies.empty()) {
    m.fail("returns with a cp.async that it did not wait for");
  }
  m.now->waits = "the end", m.now->line = 0;
  if (++m.returned < m.count) {
    m.next();
  }
  swap(*m.now, m.home);
}

}  // namespace emu
