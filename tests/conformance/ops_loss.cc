#include "conformance/table.h"
#include "lockstep/autograd/ops.h"

namespace lockstep::conformance {
namespace {

Reduction reduction(const Arguments& a) {
  const std::map<std::string, Reduction> reductions = {{"mean", Reduction::mean},
                                                       {"sum", Reduction::sum},
                                                       {"none", Reduction::none},
                                                       {"batchmean", Reduction::batchmean}};
  const std::string name = a.string("reduction");
  const auto found = reductions.find(name);
  LOCKSTEP_CHECK(found != reductions.end(), "'reduction' is '", name, "'");
  return found->second;
}

// f(input, target, arguments)
template <class F>
Op loss(F f) {
  return on_input([f](const Tensor& x, const Arguments& a) { return f(x, a.tensor("target"), a); });
}

Tensor call_cross_entropy(const Tensor& x, const Tensor& target, const Arguments& a) {
  return cross_entropy(x, target,
                       {.weight = a.optional_tensor("weight"),
                        .ignore_index = a.integer("ignore_index"),
                        .label_smoothing = a.number("label_smoothing"),
                        .reduction = reduction(a)});
}

Tensor call_nll_loss(const Tensor& x, const Tensor& target, const Arguments& a) {
  return nll_loss(x, target,
                  {.weight = a.optional_tensor("weight"),
                   .ignore_index = a.integer("ignore_index"),
                   .reduction = reduction(a)});
}

Tensor call_bce(const Tensor& x, const Tensor& target, const Arguments& a) {
  return binary_cross_entropy(x, target,
                              {.weight = a.optional_tensor("weight"), .reduction = reduction(a)});
}

Tensor call_bce_with_logits(const Tensor& x, const Tensor& target, const Arguments& a) {
  return binary_cross_entropy_with_logits(x, target,
                                          {.weight = a.optional_tensor("weight"),
                                           .pos_weight = a.optional_tensor("pos_weight"),
                                           .reduction = reduction(a)});
}

}  // namespace

void add_loss(OpTable& table) {
  table["cross_entropy"] = loss(call_cross_entropy);
  table["nll_loss"] = loss(call_nll_loss);
  table["binary_cross_entropy"] = loss(call_bce);
  table["binary_cross_entropy_with_logits"] = loss(call_bce_with_logits);
  table["mse_loss"] = loss([](const Tensor& x, const Tensor& target, const Arguments& a) {
    return mse_loss(x, target, reduction(a));
  });
  table["l1_loss"] = loss([](const Tensor& x, const Tensor& target, const Arguments& a) {
    return l1_loss(x, target, reduction(a));
  });
  table["smooth_l1_loss"] = loss([](const Tensor& x, const Tensor& target, const Arguments& a) {
    return smooth_l1_loss(x, target, reduction(a), a.number("beta"));
  });
  table["huber_loss"] = loss([](const Tensor& x, const Tensor& target, const Arguments& a) {
    return huber_loss(x, target, reduction(a), a.number("delta"));
  });
  table["kl_div"] = loss([](const Tensor& x, const Tensor& target, const Arguments& a) {
    return kl_div(x, target, reduction(a), a.boolean("log_target"));
  });
}

}  // namespace lockstep::conformance
