#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/device.h"
#include "lockstep/runtime/ref.h"

namespace lockstep {

class Storage;

// Whoever brings what a storage is to hold (values gathered from other ranks) just before somebody
// looks. Removes itself from the storage when what belongs there is there, or throws Error.
class StorageGuard {
 public:
  virtual ~StorageGuard() = default;
  virtual void before_access(Storage& storage) = 0;
};

// Owned memory on one device. Its memory can be given up and attached again (a sharded parameter
// between uses) while arrays keep referring to it. `version` counts changes of value, so that a
// value saved for backward can be checked; giving memory up and gathering it again keeps it.
class Storage final : public RefCounted {
 public:
  // Not initialised, 64-byte aligned.
  static Ref<Storage> allocate(Device device, size_t bytes);
  // Memory of someone else's, given back by calling `give_back` when the storage ends.
  static Ref<Storage> adopt(Device device, void* data, size_t bytes,
                            std::function<void()> give_back);

  // Asks the guard first, where there is one.
  void* data() const {
    if (guard_) [[unlikely]]
      ask_guard();
    return data_;
  }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  bool attached() const { return data_ != nullptr || bytes_ == 0; }
  // Whether its memory is its own, and whoever asks holds the only reference: then nobody else can
  // see what is written there.
  bool exclusive() const { return unique() && !give_back_ && !guard_; }

  // Frees the memory, keeps size and version. `attach` allocates it anew, not initialised.
  void release_memory();
  void attach();
  void set_guard(std::shared_ptr<StorageGuard> guard) { guard_ = std::move(guard); }
  // The same memory under another name, without a guard: for who fills it.
  Ref<Storage> unguarded();

  // Between which integers all values lie, where somebody has said so and nothing was written
  // since: then a device need not be waited for to know.
  struct Extent {
    int64_t smallest;
    int64_t largest;
  };
  const Extent* known_extent() const {
    return known_ && known_->version == version() ? &known_->extent : nullptr;
  }
  // Whether all values are known to lie there, not counting those that are `except`.
  bool known_within(Extent within, std::optional<int64_t> except = {}) const;
  // `inner`: the smallest of the values above the smallest, and the largest below the largest;
  // where there are none, what is larger (smaller) than any.
  void set_known_extent(Extent extent, Extent inner) {
    known_ = std::make_unique<KnownExtent>(KnownExtent{extent, inner, version()});
  }

  uint64_t version() const { return version_.load(std::memory_order_relaxed); }
  void bump_version() { version_.fetch_add(1, std::memory_order_relaxed); }

 private:
  Storage(Device device, void* data, size_t bytes, bool is_inline)
      : data_(data), bytes_(bytes), device_(device), inline_(is_inline) {}
  ~Storage() override = default;
  void destroy() override;
  void ask_guard() const;

  struct KnownExtent {
    Extent extent;
    Extent inner;
    uint64_t version;
  };

  void* data_;
  size_t bytes_;
  std::atomic<uint64_t> version_{0};
  Device device_;
  bool inline_;  // header and data share one block
  std::function<void()> give_back_;
  std::shared_ptr<StorageGuard> guard_;
  std::unique_ptr<const KnownExtent> known_;
};

}  // namespace lockstep
