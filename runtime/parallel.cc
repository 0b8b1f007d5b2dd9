#include "lockstep/runtime/parallel.h"

#include <omp.h>

#include <algorithm>

#include "lockstep/runtime/context.h"

namespace lockstep {

int thread_count() {
  const int asked = context().threads;
  if (asked > 0) return asked;
  static const int available = available_cpus();
  return available;
}

namespace internal {

// The thread that calls keeps its own workers (OpenMP has a team for each), so ranks that are
// threads of one process do not wait for each other.
void run_parallel(int64_t count, int64_t grain, RangeFunction function, const void* body) {
  const int64_t pieces = (count + grain - 1) / grain;
  const int threads =
      omp_in_parallel() != 0 ? 1 : static_cast<int>(std::min<int64_t>(pieces, thread_count()));
  if (threads <= 1) return function(body, 0, count);
  // Pieces of equal work need not end at the same time: two for each thread even that out.
  const int64_t parts = std::min<int64_t>(pieces, int64_t{2} * threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t begin = pieces * part / parts * grain;
    const int64_t end = std::min(count, pieces * (part + 1) / parts * grain);
    function(body, begin, end);
  }
}

}  // namespace internal
}  // namespace lockstep
