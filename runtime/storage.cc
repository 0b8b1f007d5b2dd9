#include "lockstep/runtime/storage.h"

#include <new>

#include "lockstep/runtime/capture.h"
#include "lockstep/runtime/context.h"
#include "lockstep/runtime/error.h"

namespace lockstep {
namespace {

// Small values live behind their header: one allocation instead of two.
constexpr size_t kInlineBytes = 512;
constexpr size_t kAlignment = 64;
constexpr size_t kHeaderBytes = (sizeof(Storage) + kAlignment - 1) / kAlignment * kAlignment;

}  // namespace

Ref<Storage> Storage::allocate(Device device, size_t bytes) {
  if (device.kind == DeviceKind::cpu && bytes <= kInlineBytes) {
    void* block = ::operator new (kHeaderBytes + bytes, std::align_val_t{kAlignment});
    void* data = static_cast<char*>(block) + kHeaderBytes;
    return Ref<Storage>(new (block) Storage(device, data, bytes, true));
  }
  void* data = backend_of(device).allocate(bytes, context().operation);
  if (context().uploads != nullptr && device.kind != DeviceKind::cpu)
    context().uploads->note_made();
  return Ref<Storage>(new Storage(device, data, bytes, false));
}

Ref<Storage> Storage::adopt(Device device, void* data, size_t bytes,
                            std::function<void()> give_back) {
  Ref<Storage> storage(new Storage(device, data, bytes, false));
  storage->give_back_ = std::move(give_back);
  return storage;
}

void Storage::release_memory() {
  LOCKSTEP_CHECK(!give_back_, "the memory of an adopted storage is not the runtime's to release");
  if (inline_ || data_ == nullptr) return;
  backend_of(device_).deallocate(data_, bytes_);
  data_ = nullptr;
}

void Storage::attach() {
  if (data_ == nullptr) data_ = backend_of(device_).allocate(bytes_, context().operation);
}

Ref<Storage> Storage::unguarded() {
  return adopt(device_, data_, bytes_, [keep = Ref<Storage>(this)] {});
}

bool Storage::known_within(Extent within, std::optional<int64_t> except) const {
  if (known_extent() == nullptr) return false;
  Extent extent = known_->extent;
  if (except == extent.smallest) extent.smallest = known_->inner.smallest;
  if (except == extent.largest) extent.largest = known_->inner.largest;
  return extent.smallest >= within.smallest && extent.largest <= within.largest;
}

void Storage::ask_guard() const {
  const std::shared_ptr<StorageGuard> guard = guard_;  // it may remove itself
  guard->before_access(const_cast<Storage&>(*this));
}

void Storage::destroy() {
  if (inline_) {
    this->~Storage();
    ::operator delete (static_cast<void*>(this), std::align_val_t{kAlignment});
    return;
  }
  if (give_back_) {
    give_back_();
  } else if (data_ != nullptr) {
    backend_of(device_).deallocate(data_, bytes_);
  }
  delete this;
}

}  // namespace lockstep
