// What a program adds to Lockstep from outside: a function with a gradient of its own, and a
// communication hook. Each is checked for its effect, in a program with the trainer's frame.
#include <lockstep/lockstep.h>

#include <cstdio>

using namespace lockstep;

namespace {

Tensor clipped_log(const Tensor& x) {
  LOCKSTEP_CHECK(is_floating(x.dtype()), "clipped_log: ", x.dtype(), ", expected floating values");
  const Tensor y = unrecorded([&] { return log(maximum(x, Tensor(1e-6))); });
  return record({"clipped_log"}, y.value(), {&x}, [x = Saved(x)](const Tensor& dy, Gradients& out) {
    out.add(0, [&] { return dy / maximum(*x, Tensor(1e-6)); });
  });
}

// Gradients travel in bf16; `bytes` counts what this rank sends.
nn::CommunicationHook in_bf16(int64_t& bytes) {
  return [&bytes](const nn::GradientBucket& bucket) {
    const Array half = kernels::cast(bucket.values, DType::bf16);
    bytes += static_cast<int64_t>(half.bytes());
    return bucket.communicator.all_reduce(half, ReduceOp::mean, {.what = "bf16 gradients"})
        .then([half, values = bucket.values] {
          kernels::copy_into(half, values);
          return Work();
        });
  };
}

void check_function() {
  const Tensor x = Array::from({0.5, 2.0, 3.0}, {3});
  const GradientReport report =
      gradient_check([](const std::vector<Tensor>& in) { return clipped_log(in[0]); }, {x});
  LOCKSTEP_CHECK(report, report.to_string());
  try {
    clipped_log(Array::from({int64_t{1}}, {1}));
    fail({"clipped_log took integers"});
  } catch (const Error& error) {
    std::printf("caught: %s\n", error.what());
  }
}

// The gradient of sum(x · w) by w is the ranks' mean x, here as bf16 holds it.
void check_hook(Communicator& communicator) {
  nn::Linear model(100, 1);
  int64_t bytes = 0;
  nn::DistributedDataParallel ddp(model, communicator, {.hook = in_bf16(bytes)});
  const Tensor x = randn({communicator.size(), 100});
  sum(model(select(x, 0, communicator.rank()))).backward();
  ddp.finish();
  const Tensor error = abs(model.weight.grad() - mean(x, {0}));
  LOCKSTEP_CHECK(amax(error).item() > 0, "gradients came through bf16 unchanged");
  LOCKSTEP_CHECK(amax(error).item() < 0.02, "gradients are wrong by ", amax(error).item());
  std::printf("rank %d of %d sent %ld bytes\n", communicator.rank(), communicator.size(), bytes);
}

}  // namespace

int main(int argc, char** argv) {
  train::Program program{.name = "extend", .summary = "Extends Lockstep from outside."};
  program.body = [](train::Session session) {
    check_function();
    check_hook(session.communicator);
    return 0;
  };
  return program.run(argc, argv);
}
