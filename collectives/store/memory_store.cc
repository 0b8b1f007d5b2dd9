#include <condition_variable>
#include <mutex>
#include <optional>

#include "lockstep/collectives/store/store_table.h"

namespace lockstep {

struct MemoryStore::Shared {
  explicit Shared(StoreLimits limits) : table(limits) {}

  std::mutex mutex;
  std::condition_variable changed;
  StoreTable table;
};

namespace {

template <class Shared>
class MemoryClient final : public Store {
 public:
  explicit MemoryClient(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  ~MemoryClient() override {
    if (!will_) return;
    const std::scoped_lock lock(shared_->mutex);
    shared_->table.set_once(will_->first, will_->second).IgnoreError();
    shared_->changed.notify_all();
  }

  absl::Status set(std::string_view key, std::string_view value) override {
    const std::scoped_lock lock(shared_->mutex);
    if (closed_) return closed();
    const absl::Status status = shared_->table.set(key, value);
    shared_->changed.notify_all();
    return status;
  }

  absl::StatusOr<std::string> set_once(std::string_view key, std::string_view value) override {
    const std::scoped_lock lock(shared_->mutex);
    if (closed_) return closed();
    auto there = shared_->table.set_once(key, value);
    shared_->changed.notify_all();
    return there;
  }

  absl::StatusOr<std::string> get(std::string_view key, Milliseconds timeout) override {
    std::unique_lock lock(shared_->mutex);
    const std::string* value = nullptr;
    shared_->changed.wait_for(lock, timeout, [&] {
      value = shared_->table.find(key);
      return value != nullptr || closed_;
    });
    if (closed_) return closed();
    if (value == nullptr) return missing_keys({std::string(key)}, timeout);
    return *value;
  }

  absl::StatusOr<int64_t> add(std::string_view key, int64_t delta) override {
    const std::scoped_lock lock(shared_->mutex);
    if (closed_) return closed();
    const auto sum = shared_->table.add(key, delta);
    shared_->changed.notify_all();
    return sum;
  }

  absl::StatusOr<bool> remove(std::string_view key) override {
    const std::scoped_lock lock(shared_->mutex);
    if (closed_) return closed();
    return shared_->table.remove(key);
  }

  absl::StatusOr<std::map<std::string, std::string>> list(std::string_view prefix) override {
    const std::scoped_lock lock(shared_->mutex);
    if (closed_) return closed();
    return shared_->table.list(prefix);
  }

  absl::Status set_will(std::string_view key, std::string_view value) override {
    if (absl::Status status = shared_->table.check(key, value); !status.ok()) return status;
    will_.emplace(key, value);
    return absl::OkStatus();
  }

  absl::Status leave() override {
    will_.reset();
    return absl::OkStatus();
  }

  void close() override {
    const std::scoped_lock lock(shared_->mutex);
    closed_ = true;
    shared_->changed.notify_all();
  }

 private:
  static absl::Status closed() { return absl::CancelledError("the store has been closed here"); }

  std::shared_ptr<Shared> shared_;
  std::optional<std::pair<std::string, std::string>> will_;
  bool closed_ = false;  // guarded as the table is
};

}  // namespace

MemoryStore::MemoryStore(StoreLimits limits) : shared_(std::make_shared<Shared>(limits)) {}
MemoryStore::~MemoryStore() = default;

std::unique_ptr<Store> MemoryStore::connect() {
  return std::make_unique<MemoryClient<Shared>>(shared_);
}

}  // namespace lockstep
