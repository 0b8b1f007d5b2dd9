#include "lockstep/nn/optim/runs.h"

#include <algorithm>

namespace lockstep::optim {
namespace {

// Flat memory has its tensors on such boundaries. What lies between them is padding, zero in every
// array, and nobody reads what an update leaves there.
constexpr int64_t kAlignmentBytes = 64;

const void* shifted(const void* base, int64_t elements, DType dtype) {
  return base == nullptr
             ? nullptr
             : static_cast<const char*>(base) + elements * static_cast<int64_t>(size_of(dtype));
}

int64_t distance(const void* from, const void* to, DType dtype) {
  const intptr_t bytes = reinterpret_cast<intptr_t>(to) - reinterpret_cast<intptr_t>(from);
  const intptr_t size = static_cast<intptr_t>(size_of(dtype));
  return bytes % size == 0 ? bytes / size : -1;
}

// Whether one update may go from the end of `left` through to the end of `right`, which follows
// with nothing or padding between. (A wider gap may hold a parameter that is not to be touched.)
bool joins(const RunCandidate& left, const RunCandidate& right) {
  const UpdateRun &a = left.run, &b = right.run;
  if (a.elements == 0 || b.elements == 0) return false;
  if (left.storage != right.storage || left.op != right.op || a.dtype != b.dtype) return false;
  if (!std::equal(a.constants, std::end(a.constants), b.constants)) return false;
  const int64_t boundary = kAlignmentBytes / static_cast<int64_t>(size_of(a.dtype));
  const int64_t gap = distance(a.parameter, b.parameter, b.dtype);
  if (gap != a.elements && gap != (a.elements + boundary - 1) / boundary * boundary) return false;
  for (int i = 0; i < UpdateRun::kStates; ++i) {
    if (shifted(a.state[i], gap, b.dtype) != b.state[i]) return false;
  }
  if (shifted(a.copy, gap, b.copy_dtype) != b.copy || a.copy_dtype != b.copy_dtype) return false;
  return shifted(a.gradient, gap, b.dtype) == b.gradient;
}

}  // namespace

std::vector<RunCandidate> joined_runs(std::vector<RunCandidate> candidates) {
  std::sort(candidates.begin(), candidates.end(), [](const RunCandidate& a, const RunCandidate& b) {
    return a.run.parameter < b.run.parameter;
  });
  std::vector<RunCandidate> joined;
  for (const RunCandidate& next : candidates) {
    if (!joined.empty() && joins(joined.back(), next)) {
      UpdateRun& run = joined.back().run;
      run.elements = distance(run.parameter, next.run.parameter, run.dtype) + next.run.elements;
    } else {
      joined.push_back(next);
    }
  }
  std::erase_if(joined, [](const RunCandidate& c) { return c.run.elements == 0; });
  return joined;
}

}  // namespace lockstep::optim
