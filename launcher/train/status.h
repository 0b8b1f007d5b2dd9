#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lockstep/runtime/error.h"

namespace lockstep::train {

// Where the world's refusals (a Status) end a step or a run, they become an Error.
inline void check(const absl::Status& status) {
  if (!status.ok()) throw Error(std::string(status.message()));
}

template <class T>
T take(absl::StatusOr<T> result) {
  check(result.status());
  return *std::move(result);
}

}  // namespace lockstep::train
