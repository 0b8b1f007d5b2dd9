#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "lockstep/collectives/store/store.h"

namespace lockstep {

// The keys and values of a store and their limits. Not thread-safe: each store guards its own.
class StoreTable {
 public:
  explicit StoreTable(StoreLimits limits) : limits_(limits) {}

  absl::Status set(std::string_view key, std::string_view value);
  absl::StatusOr<std::string> set_once(std::string_view key, std::string_view value);
  // Null where there is none.
  const std::string* find(std::string_view key) const;
  absl::StatusOr<int64_t> add(std::string_view key, int64_t delta);
  bool remove(std::string_view key);
  std::map<std::string, std::string> list(std::string_view prefix) const;

  absl::Status check(std::string_view key, std::string_view value) const;

 private:
  StoreLimits limits_;
  std::map<std::string, std::string, std::less<>> values_;
  size_t bytes_ = 0;
};

absl::Status missing_keys(const std::vector<std::string>& keys, Store::Milliseconds waited);

}  // namespace lockstep
