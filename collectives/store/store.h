#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lockstep {

// Small keys and values shared by the ranks of a job: where they find one another, and where each
// says that it lives. Statuses are what the world did: DeadlineExceeded (which keys are missing),
// Unavailable (the host of the store is gone), ResourceExhausted (a limit), InvalidArgument.
// Thread-safe; over TCP a call waits for those of other threads on the same client, so a thread
// that must not wait for others connects a client of its own.
class Store {
 public:
  using Milliseconds = std::chrono::milliseconds;

  virtual ~Store() = default;

  // Replaces what was there.
  virtual absl::Status set(std::string_view key, std::string_view value) = 0;
  // Sets the key unless it is there; returns what is there then.
  virtual absl::StatusOr<std::string> set_once(std::string_view key, std::string_view value) = 0;
  // Waits until somebody has set the key.
  virtual absl::StatusOr<std::string> get(std::string_view key, Milliseconds timeout) = 0;
  // Adds to a counter, which begins at 0, and returns the sum. The value is its decimal form.
  virtual absl::StatusOr<int64_t> add(std::string_view key, int64_t delta) = 0;
  // True if there was one.
  virtual absl::StatusOr<bool> remove(std::string_view key) = 0;
  // Everything whose key begins so, at one moment.
  virtual absl::StatusOr<std::map<std::string, std::string>> list(std::string_view prefix) = 0;
  // What the store sets by itself, unless the key is there, once this client's connection is gone
  // without `leave`. One a client; the last one counts.
  virtual absl::Status set_will(std::string_view key, std::string_view value) = 0;
  // The will is void.
  virtual absl::Status leave() = 0;
  // From any thread: calls under way and later ones fail at once (Cancelled). The will counts.
  virtual void close() = 0;

  // Waits for all of them; the error names those that are missing.
  absl::Status wait(std::span<const std::string> keys, Milliseconds timeout);
};

struct StoreLimits {
  size_t key_bytes = 1024;
  size_t value_bytes = size_t{4} << 20;
  size_t total_bytes = size_t{256} << 20;  // of keys and values together
};

// Clients of one store in this process, one for each thread that plays a rank.
class MemoryStore {
 public:
  explicit MemoryStore(StoreLimits limits = {});
  ~MemoryStore();
  // The store lives as long as its last client.
  std::unique_ptr<Store> connect();

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace lockstep
