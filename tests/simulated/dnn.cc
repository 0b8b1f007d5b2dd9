#include "lockstep/runtime/cuda/dnn.h"

#include <map>
#include <mutex>

#include "simulated/recorder.h"

// Computes nothing: refuses every call, or takes it and leaves the results as they were.
namespace lockstep::cuda {
namespace {

using simulated::DnnRecorder;

// Those of all devices of the process.
struct Recorders {
  std::mutex mutex;
  std::map<int, DnnRecorder*> of_device;
};

Recorders& recorders() {
  static Recorders& all = *new Recorders;
  return all;
}

class RecordingDnn final : public Dnn {
 public:
  explicit RecordingDnn(int device) : device_(device) {
    const std::lock_guard lock(recorders().mutex);
    recorders().of_device[device] = &recorder_;
  }
  ~RecordingDnn() override {
    const std::lock_guard lock(recorders().mutex);
    recorders().of_device.erase(device_);
  }

  bool convolution(const View& x, const View& w, const WindowOptions&, const View& y,
                   Queue&) override {
    return note("convolution", {x, w, y});
  }
  bool convolution_input_gradient(const View& dy, const View& w, const WindowOptions&,
                                  const View& dx, double beta, Queue&) override {
    return note("convolution_input_gradient", {dy, w, dx}, beta);
  }
  bool convolution_weight_gradient(const View& dy, const View& x, const WindowOptions&,
                                   const View& dw, double beta, Queue&) override {
    return note("convolution_weight_gradient", {dy, x, dw}, beta);
  }
  bool attention(const View& q, const View& k, const View& v, const AttentionOptions&,
                 const View& out, const View& log_sum_exp, Queue&) override {
    return note("attention", {q, k, v, out, log_sum_exp});
  }
  bool attention_backward(const View& dout, const View& q, const View& k, const View& v,
                          const View& out, const View& log_sum_exp, const AttentionOptions&,
                          const View& dq, const View& dk, const View& dv, Queue&) override {
    return note("attention_backward", {dout, q, k, v, out, log_sum_exp, dq, dk, dv});
  }

 private:
  bool note(const char* name, std::vector<View> views, double beta = 0) {
    recorder_.calls.push_back({name, std::move(views), beta});
    return recorder_.accepts;
  }

  int device_;
  DnnRecorder recorder_;
};

}  // namespace

std::unique_ptr<Dnn> make_dnn(int device) { return std::make_unique<RecordingDnn>(device); }

}  // namespace lockstep::cuda

extern "C" __attribute__((visibility("default"))) lockstep::simulated::DnnRecorder*
lockstep_simulated_dnn_recorder(int device) {
  auto& all = lockstep::cuda::recorders();
  const std::lock_guard lock(all.mutex);
  const auto found = all.of_device.find(device);
  return found == all.of_device.end() ? nullptr : found->second;
}
