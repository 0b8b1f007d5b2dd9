#include <lockstep/lockstep.h>

#include <cstdio>

using namespace lockstep;

struct Mlp : nn::Layer<Mlp> {
  nn::Linear hidden{784, 256}, output{256, 10};
  Tensor forward(const Tensor& x) { return output(relu(hidden(x))); }
  void visit(nn::Visitor& v) override {
    v("hidden", hidden);
    v("output", output);
  }
};

int main() {
  auto comm = make_communicator(World::from_env());  // one rank or MPI: as it was launched
  Mlp model;
  nn::DistributedDataParallel ddp(model, *comm);
  optim::AdamW optimizer(model.parameters(), {.learning_rate = 1e-3});

  const int64_t rows = 64 / comm->size();  // of this rank, in a batch of 64
  const Tensor inputs = narrow(randn({64, 784}), 0, comm->rank() * rows, rows);
  const Tensor labels = argmax(narrow(inputs, 1, 0, 10), 1);
  for (int step = 1; step <= 20; ++step) {
    optimizer.zero_grad();
    const Tensor loss = cross_entropy(model(inputs), labels);
    loss.backward();                                         // buckets leave as they fill
    const auto sum = ddp.finish({.loss_sum = loss.item()});  // every gradient is the ranks' mean
    optimizer.step();
    if (comm->rank() == 0) std::printf("step %d: loss %.6f\n", step, sum.loss_sum / comm->size());
  }
}
