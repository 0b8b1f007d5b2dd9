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
    "tan cumprod cumsum logsumexp norm prod sum log_softmax softmax batch_norm group_norm "
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
}

Array LowPrecisionCopies::of(const Array& master) {
  LOCKSTEP_CHECK(master.dtype() == DType::f32, "autocast: a copy of ", master.dtype(),
                 " parameters, expected f32");
  const auto same = [&](const Copy& copy) { return copy.master == master.storage(); };
  auto copy = std::find_if(copies_.begin(), copies_.end(), same);
  if (copy == copies_.end()) {
    // Masters that only their copy still holds are gone.
    std::erase_if(copies_, [](const Copy& old) { return old.master->unique(); });
    const int64_t elements = static_cast<int64_t>(master.storage()->bytes() / sizeof(float));
    copies_.push_back({master.storage(), Array::empty({elements}, dtype_, master.device()), 0});
    copy = copies_.end() - 1;
    refresh(*copy);
  } else if (copy->version != master.storage()->version()) {
    refresh(*copy);
  }
  return Array(copy->flat.storage(), dtype_, master.shape(), master.strides(), master.offset());
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
    : Autocast(AutocastState{.on = true, .dtype = copies.dtype(), .copies = &copies}) {}

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
  const bool parameter = x.requires_grad() && x.is_leaf() && x.dtype() == DType::f32;
  if (!parameter || *dtype != context().autocast.dtype) return to(x, *dtype);
  return record(
      {"to"}, context().autocast.copies->of(x.value()), {&x},
      [](const Tensor& dy, Gradients& out) { out.add(0, [&] { return to(dy, DType::f32); }); });
}

}  // namespace lockstep
