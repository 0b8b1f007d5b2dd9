#include "lockstep/autograd/autocast.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {
namespace {

// What gains most from 16 bits, and adds up in f32 inside.
constexpr std::string_view kLow =
    " addmm bmm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "linear matmul packed_attention recurrent scaled_dot_product_attention ";

// What overflows or rounds away in 16 bits.
constexpr std::string_view kHigh =
    " acos asin cosh exp expm1 log log1p log2 pow pow_scalar reciprocal rsqrt sinh softplus "
    "tan cumprod cumsum logsumexp norm prod sum log_softmax softmax group_norm "
    "instance_norm layer_norm rms_norm binary_cross_entropy "
    "binary_cross_entropy_with_logits cross_entropy huber_loss kl_div l1_loss mse_loss "
    "nll_loss smooth_l1_loss ";

bool lists(std::string_view names, std::string_view op) {
  if (op.empty()) return false;
  for (size_t at = names.find(op); at != names.npos; at = names.find(op, at + 1)) {
    if (names[at - 1] == ' ' && names[at + op.size()] == ' ') return true;
  }
  return false;
}

std::optional<DType> wanted(std::string_view op) {
  if (lists(kLow, op)) return context().autocast.dtype;
  if (lists(kHigh, op)) return DType::f32;
  return std::nullopt;
}

// Integers, masks and double precision are left alone.
bool converts(const Tensor& x, DType dtype) {
  return x && is_floating(x.dtype()) && x.dtype() != DType::f64 && x.dtype() != dtype &&
         !x.is_weak_scalar();
}

}  // namespace

LowPrecisionCopies::LowPrecisionCopies(DType dtype) : dtype_(dtype) {
  LOCKSTEP_CHECK(dtype == DType::bf16 || dtype == DType::f16, "autocast: ", dtype,
                 ", expected bf16 or f16");
}

void LowPrecisionCopies::refresh(Copy& copy) {
  const int64_t elements = copy.flat.elements();
  kernels::copy_into(Array(copy.master, DType::f32, {elements}, {1}, 0), copy.flat);
  copy.version = copy.master->version();
  ++conversions_;
}

const LowPrecisionCopies::Copy* LowPrecisionCopies::find(const Storage* master) const {
  const auto same = [&](const Copy& copy) { return copy.master.get() == master; };
  const auto copy = std::find_if(copies_.begin(), copies_.end(), same);
  return copy == copies_.end() ? nullptr : &*copy;
}

Array LowPrecisionCopies::window(const Copy& copy, const Array& master) const {
  return Array(copy.flat.storage(), dtype_, master.shape(), master.strides(), master.offset());
}

void LowPrecisionCopies::drop_unused() {
  std::erase_if(copies_, [](const Copy& copy) { return copy.master->unique(); });
}

Array LowPrecisionCopies::of(const Array& master) {
  LOCKSTEP_CHECK(master.dtype() == DType::f32, "autocast: a copy of ", master.dtype(),
                 " parameters, expected f32");
  Copy* copy = find(master.storage().get());
  if (copy == nullptr) {
    drop_unused();
    const Purpose purpose("16-bit parameters");
    const int64_t elements = static_cast<int64_t>(master.storage()->bytes() / sizeof(float));
    copies_.push_back({master.storage(), Array::empty({elements}, dtype_, master.device()), 0});
    copy = &copies_.back();
    refresh(*copy);
  } else if (!copy->provided && copy->version != master.storage()->version()) {
    refresh(*copy);
  }
  return window(*copy, master);
}

Array LowPrecisionCopies::current(const Array& master) const {
  const Copy* copy = find(master.storage().get());
  if (copy == nullptr || copy->provided || copy->version != copy->master->version()) return {};
  return window(*copy, master);
}

void LowPrecisionCopies::mark_current(const Storage& master) {
  Copy* copy = find(&master);
  LOCKSTEP_CHECK(copy != nullptr && !copy->provided, "mark_current: there is no copy to mark");
  copy->version = master.version();
  // What has saved the values of before for a backward pass finds out.
  copy->flat.storage()->bump_version();
}

void LowPrecisionCopies::provide(Ref<Storage> master, Array flat) {
  const auto elements = static_cast<int64_t>(master->bytes() / sizeof(float));
  LOCKSTEP_CHECK(flat.dtype() == dtype_ && flat.elements() == elements && flat.contiguous() &&
                     flat.offset() == 0,
                 "provide: a copy of ", elements, " values is given as ", flat.dtype(), " ",
                 flat.shape(), ", expected flat ", dtype_, " from the start of its memory");
  withdraw(*master);
  copies_.push_back({std::move(master), std::move(flat), 0, true});
}

void LowPrecisionCopies::withdraw(const Storage& master) {
  std::erase_if(copies_, [&](const Copy& copy) { return copy.master.get() == &master; });
}

void LowPrecisionCopies::refresh() {
  for (Copy& copy : copies_) {
    if (!copy.provided && copy.version != copy.master->version()) refresh(copy);
  }
}

void LowPrecisionCopies::forget() {
  std::erase_if(copies_, [](const Copy& copy) { return !copy.provided; });
}

int64_t LowPrecisionCopies::bytes() const {
  int64_t total = 0;
  for (const Copy& copy : copies_) total += static_cast<int64_t>(copy.flat.bytes());
  return total;
}

Autocast::Autocast(DType dtype) : own_(dtype), before_(context().autocast) {
  context().autocast = {.on = true, .dtype = dtype, .copies = &own_};
}

Autocast::Autocast(LowPrecisionCopies& copies)
    : Autocast(
          AutocastState{.on = true, .dtype = copies.dtype(), .copies = &copies, .lasting = true}) {}

Autocast Autocast::off() { return Autocast(AutocastState{}); }

bool internal::autocast_differs(const char* op, std::initializer_list<const Tensor*> inputs) {
  const std::optional<DType> dtype = wanted(op);
  return dtype && std::any_of(inputs.begin(), inputs.end(), [&](const Tensor* input) {
           return input != nullptr && converts(*input, *dtype);
         });
}

Tensor autocast(const char* op, const Tensor& x) {
  const std::optional<DType> dtype = wanted(op);
  if (!dtype || !converts(x, *dtype)) return x;
  const AutocastState& state = context().autocast;
  if (*dtype != state.dtype || x.dtype() != DType::f32) return to(x, *dtype);
  // A recomputation has met its parameters before; what else is a leaf there is its input.
  const bool parameter =
      x.requires_grad() && !context().recomputing ? x.is_leaf() : state.copies->holds(x.value());
  if (!parameter) return to(x, *dtype);
  return record({"to"}, state.copies->of(x.value()), {&x}, [](const Tensor& dy, Gradients& out) {
    out.add(0, [&](Into into) {
      return recording() ? to(dy, DType::f32) : Tensor(kernels::cast(dy.value(), DType::f32, into));
    });
  });
}

}  // namespace lockstep
