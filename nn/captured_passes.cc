#include "lockstep/nn/captured_passes.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "lockstep/collectives/work.h"
#include "lockstep/runtime/log.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {
namespace {

// Sets a member of the context while it lives.
template <class T>
class Within {
 public:
  Within(T& place, T value) : place_(place), before_(std::exchange(place, value)) {}
  ~Within() { place_ = before_; }
  Within(const Within&) = delete;
  Within& operator=(const Within&) = delete;

 private:
  T& place_;
  T before_;
};

}  // namespace

CapturedPasses::CapturedPasses(Module& module, Backend& backend, LowPrecisionCopies* copies)
    : module_(module), backend_(backend), copies_(copies) {
  if (backend.device().kind != DeviceKind::cuda) refusal_ = "only a CUDA device captures passes";
  backend_.on_shortage(this, [this] {
    const auto captured = [](const auto& entry) { return entry.second.capture != nullptr; };
    if (std::none_of(kinds_.begin(), kinds_.end(), captured)) return false;
    refuse("the memory of captured passes is needed elsewhere");
    log(LogLevel::info, {"no pass is captured any more: ", refusal_});
    return true;
  });
}

CapturedPasses::~CapturedPasses() { backend_.on_shortage(this, {}); }

Array CapturedPasses::run(int64_t kind, double weight, const std::function<void()>& load,
                          const std::function<Tensor()>& loss) {
  this->load(kind, load);
  const auto pass = [&] {
    const Tensor result = loss();
    result.backward(seed(result, weight));
    return result.value();
  };
  return captured(pass) ? replay(weight) : pass();
}

void CapturedPasses::load(int64_t number, const std::function<void()>& load) {
  kind_ = &kinds_[number];
  if (!refusal_.empty()) return load();
  kind_->uploads.rewind();
  {
    const Within<Uploads*> within(context().uploads, &kind_->uploads);
    load();
  }
  kind_->is_settled = kind_->uploads.stayed();
  ++(kind_->is_settled ? kind_->settled : kind_->unsettled);
  if (!kind_->is_settled) kind_->capture.reset();
  if (kind_->unsettled > kMostUnsettled) refuse("batches keep bringing arrays of other shapes");
}

bool CapturedPasses::captured(const std::function<Array()>& pass) {
  if (!refusal_.empty() || !kind_->is_settled || !kind_->weight) return false;
  drop_outdated(*kind_);
  // A graph converts nothing: what it reads is current before it runs.
  if (copies_ != nullptr) copies_->refresh();
  const auto is_busy = [](const auto& each) { return each.parameter.leaf().busy(); };
  const auto any_is_busy = [&](const auto& parameters) {
    return std::any_of(parameters.begin(), parameters.end(), is_busy);
  };
  if (kind_->capture == nullptr && kind_->settled > kWarmUp &&
      !any_is_busy(module_.named_parameters())) {
    capture(*kind_, pass);
  }
  // A pass that is not captured turns to other memory where gradients are being read.
  return kind_->capture != nullptr && within_bounds(*kind_) && !any_is_busy(kind_->parameters);
}

CapturedPasses::CapturedParameter::CapturedParameter(const Parameter& parameter)
    : parameter(parameter),
      frozen(parameter.frozen()),
      marked(parameter.leaf().marked()),
      value(parameter.tensor().value().data()),
      gradient(parameter.leaf().seated() ? parameter.leaf().gradient().data() : nullptr) {}

bool CapturedPasses::CapturedParameter::is_as_before() const {
  return parameter.frozen() == frozen && parameter.leaf().marked() == marked;
}

bool CapturedPasses::CapturedParameter::is_where_before() const {
  const CapturedParameter now(parameter);
  return now.value == value && now.gradient == gradient;
}

// A graph that would compute something else, or somewhere else: then libraries choose anew first.
void CapturedPasses::drop_outdated(Kind& kind) const {
  if (kind.capture == nullptr) return;
  const auto all = [&](bool (CapturedParameter::*is)() const) {
    return std::all_of(kind.parameters.begin(), kind.parameters.end(), std::mem_fn(is));
  };
  const auto is_where_before = [](const auto& entry) {
    return entry.first.array().data() == entry.second;
  };
  const bool stayed = all(&CapturedParameter::is_where_before) &&
                      std::all_of(kind.buffers.begin(), kind.buffers.end(), is_where_before);
  if (!stayed) kind.settled = 0;
  if (stayed && all(&CapturedParameter::is_as_before) && kind.seed == context().random.seed) return;
  kind.capture.reset();
}

Tensor CapturedPasses::seed(const Tensor& loss, double weight) {
  Array& seed = kind_->weight;
  if (!seed || seed.shape() != loss.shape() || seed.dtype() != loss.dtype()) {
    seed = Array::empty(loss.shape(), loss.dtype(), loss.device());
    kind_->filled = std::nan("");
  }
  if (context().capture == nullptr) fill(*kind_, weight);
  return Tensor(seed);
}

// Backward passes read it alone, so it stays what it is.
void CapturedPasses::fill(Kind& kind, double weight) {
  if (kind.filled == weight) return;
  kernels::fill(kind.weight, weight);
  kind.filled = weight;
}

void CapturedPasses::refuse(const std::string& reason) {
  refusal_ = reason;
  for (auto& [number, kind] : kinds_) kind.capture.reset();
}

// What fails has done nothing on the device, so what the host has noted meanwhile is undone.
void CapturedPasses::capture(Kind& kind, const std::function<Array()>& pass) {
  std::vector<std::pair<Ref<Leaf>, bool>> leaves;
  kind.parameters.clear();
  for (const auto& [name, parameter] : module_.named_parameters()) {
    Leaf& leaf = parameter.leaf();
    leaves.emplace_back(Ref<Leaf>(&leaf), leaf.has_gradient());
    if (!leaf.seated() && !parameter.frozen()) {
      const Purpose purpose("gradients");
      leaf.seat_gradient(Array::empty(leaf.shape(), parameter.dtype(), backend_.device()));
    }
    kind.parameters.emplace_back(parameter);
  }
  kind.buffers.clear();
  for (const auto& [name, buffer] : module_.named_buffers()) {
    kind.buffers.emplace_back(buffer, buffer.array().data());
  }
  const RandomKey key = context().random;
  const auto undo = [&] {
    backend_.abandon_capture();
    kind.capture.reset();
    kind.loss = Array();
    kind.notes = {};
    for (const auto& [leaf, has_gradient] : leaves) leaf->set_has_gradient(has_gradient);
    context().random = key;
  };
  const int64_t conversions = copies_ == nullptr ? 0 : copies_->conversions();
  kind.notes = {.backend = &backend_};
  kind.seed = key.seed;
  try {
    // What was cached for passes of before would be held beside the capture's memory.
    backend_.trim();
    const Within<CaptureNotes*> within(context().capture, &kind.notes);
    backend_.begin_capture(key);
    kind.loss = pass();
    kind.capture = backend_.end_capture();
  } catch (const CollectiveError&) {
    undo();
    throw;
  } catch (const Error& error) {
    refuse(error.what());
  } catch (...) {
    undo();
    throw;
  }
  kind.operations = context().random.operation - key.operation;
  if (refusal_.empty() && copies_ != nullptr && copies_->conversions() != conversions) {
    refuse("a pass that makes 16-bit copies anew");
  }
  if (refusal_.empty() && !within_bounds(kind)) refuse("a pass that changes its own indices");
  if (!refusal_.empty()) {
    undo();
    if (copies_ != nullptr && copies_->conversions() != conversions) copies_->forget();
    log(LogLevel::info, {"passes are not captured: ", refusal_});
  }
  context().random = key;
}

bool CapturedPasses::within_bounds(const Kind& kind) const {
  return std::all_of(kind.notes.bounds.begin(), kind.notes.bounds.end(), [](const auto& bound) {
    return bound.storage->known_within(bound.within, bound.except);
  });
}

Array CapturedPasses::replay(double weight) {
  Kind& kind = *kind_;
  fill(kind, weight);
  kind.capture->replay(context().random);
  context().random.operation += kind.operations;
  ++replays_;
  Replay(kind.notes).do_effects();
  // The next replay overwrites its own.
  const Array loss = Array::empty(kind.loss.shape(), kind.loss.dtype(), kind.loss.device());
  kernels::copy_into(kind.loss, loss);
  return loss;
}

}  // namespace lockstep::nn
