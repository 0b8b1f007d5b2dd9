// The form of parallel_for for builds under ThreadSanitizer, which does not understand OpenMP.
#include "lockstep/runtime/parallel.h"

namespace lockstep {

int thread_count() { return 1; }

namespace internal {
void run_parallel(int64_t count, int64_t, RangeFunction function, const void* body) {
  function(body, 0, count);
}
}  // namespace internal

}  // namespace lockstep
