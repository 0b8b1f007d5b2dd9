#pragma once

#include <cstdint>

namespace lockstep {

// Calls body(begin, end) on disjoint ranges that cover [0, count), from this thread and its
// workers; returns when all are done. Ranges hold at least `grain` items (but for the last). The
// one door to threads for CPU kernels. Nested calls run on the caller. An exception in a body ends
// the process: kernels do not throw.
template <class F>
void parallel_for(int64_t count, int64_t grain, const F& body);

// Worker threads that a loop may use now: the context's setting, else what this process may run on
// (affinity and CPU quota, not the machine's core count).
int thread_count();

// CPUs this process may use: scheduler affinity, cut by a control group's quota. At least 1.
int available_cpus();

namespace internal {
using RangeFunction = void (*)(const void* body, int64_t begin, int64_t end);
void run_parallel(int64_t count, int64_t grain, RangeFunction function, const void* body);
}  // namespace internal

template <class F>
void parallel_for(int64_t count, int64_t grain, const F& body) {
  if (count <= 0) return;
  if (count <= grain) return body(int64_t{0}, count);
  internal::run_parallel(
      count, grain,
      [](const void* function, int64_t begin, int64_t end) {
        (*static_cast<const F*>(function))(begin, end);
      },
      &body);
}

}  // namespace lockstep
