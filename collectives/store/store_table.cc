#include "lockstep/collectives/store/store_table.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lockstep {

absl::Status StoreTable::check(std::string_view key, std::string_view value) const {
  if (key.empty()) return absl::InvalidArgumentError("store: an empty key");
  if (key.size() > limits_.key_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "store: a key of ", key.size(), " bytes, at most ", limits_.key_bytes, " are allowed"));
  }
  if (value.size() > limits_.value_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("store: a value of ", value.size(),
                                                   " bytes, at most ", limits_.value_bytes,
                                                   " are allowed"));
  }
  return absl::OkStatus();
}

absl::Status StoreTable::set(std::string_view key, std::string_view value) {
  if (absl::Status status = check(key, value); !status.ok()) return status;
  const auto found = values_.find(key);
  const size_t before = found == values_.end() ? 0 : key.size() + found->second.size();
  const size_t after = bytes_ - before + key.size() + value.size();
  if (after > limits_.total_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("store: full, ", limits_.total_bytes, " bytes"));
  }
  bytes_ = after;
  if (found == values_.end()) {
    values_.emplace(key, value);
  } else {
    found->second = value;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> StoreTable::set_once(std::string_view key, std::string_view value) {
  if (const std::string* before = find(key)) return *before;
  if (absl::Status status = set(key, value); !status.ok()) return status;
  return std::string(value);
}

const std::string* StoreTable::find(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

absl::StatusOr<int64_t> StoreTable::add(std::string_view key, int64_t delta) {
  int64_t before = 0;
  if (const std::string* value = find(key)) {
    const absl::string_view text(value->data(), value->size());
    if (!absl::SimpleAtoi(text, &before)) {
      return absl::InvalidArgumentError(
          absl::StrCat("store: add to '", std::string(key), "', which is not a number"));
    }
  }
  int64_t sum = 0;
  if (__builtin_add_overflow(before, delta, &sum)) {
    return absl::InvalidArgumentError(
        absl::StrCat("store: the counter '", std::string(key), "' overflows"));
  }
  if (absl::Status status = set(key, std::to_string(sum)); !status.ok()) return status;
  return sum;
}

bool StoreTable::remove(std::string_view key) {
  const auto found = values_.find(key);
  if (found == values_.end()) return false;
  bytes_ -= found->first.size() + found->second.size();
  values_.erase(found);
  return true;
}

std::map<std::string, std::string> StoreTable::list(std::string_view prefix) const {
  std::map<std::string, std::string> result;
  for (auto at = values_.lower_bound(prefix); at != values_.end(); ++at) {
    if (at->first.compare(0, prefix.size(), prefix) != 0) break;
    result.insert(*at);
  }
  return result;
}

absl::Status missing_keys(const std::vector<std::string>& keys, Store::Milliseconds waited) {
  return absl::DeadlineExceededError(absl::StrCat(
      "store: nobody has set ", absl::StrJoin(keys, ", "), " in ", waited.count(), " ms"));
}

absl::Status Store::wait(std::span<const std::string> keys, Milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  std::vector<std::string> missing;
  for (const std::string& key : keys) {
    const auto left =
        std::chrono::duration_cast<Milliseconds>(deadline - std::chrono::steady_clock::now());
    // Past the deadline the rest is only looked at: the error is to name all that are missing.
    const auto value = get(key, std::max(left, Milliseconds(0)));
    if (value.ok()) continue;
    if (!absl::IsDeadlineExceeded(value.status())) return value.status();
    missing.push_back(key);
  }
  return missing.empty() ? absl::OkStatus() : missing_keys(missing, timeout);
}

}  // namespace lockstep
