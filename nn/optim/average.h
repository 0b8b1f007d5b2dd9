#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/nn/module.h"
#include "lockstep/runtime/array.h"

namespace lockstep::optim {

struct AverageOptions {
  double decay = 0.999;
  // Buffers (running statistics) are averaged like parameters; otherwise the average has the
  // module's own. Integers are never averaged.
  bool average_buffers = false;
};

// An exponential moving average of a module's weights: average = decay * average + (1 - decay) *
// weight at each update(), which goes after the optimizer's step; the first takes the weights as
// they are. 16-bit weights are averaged in f32. The module has to be placed, and to outlive this.
// Of sharded parameters each rank averages its slice; then swapping is a collective call.
class ExponentialMovingAverage {
 public:
  explicit ExponentialMovingAverage(nn::Module& module, AverageOptions options = {});

  void update();
  int64_t updates() const { return static_cast<int64_t>(updates_.item()); }

  // The module has the averages while one lives, then its own weights again. Where it is sharded,
  // it ends on all ranks together; one that ends because a collective failed leaves the averages
  // in.
  class [[nodiscard]] Evaluation {
   public:
    explicit Evaluation(ExponentialMovingAverage& average) : average_(average) {
      average_.swap_in();
    }
    ~Evaluation();
    Evaluation(const Evaluation&) = delete;
    Evaluation& operator=(const Evaluation&) = delete;

   private:
    ExponentialMovingAverage& average_;
  };
  Evaluation evaluation() { return Evaluation(*this); }
  // The same by hand, in turns.
  void swap_in();
  void swap_out();

  // What a run needs to go on: the averages under the names of what they average, and "n_averaged".
  // They share this object's memory. Of a sharded parameter this rank has the elements from
  // `begin` on.
  struct State {
    std::string name;
    Array values;
    int64_t begin = 0;
    bool is_slice = false;
  };
  std::vector<State> state() const;
  // Copies what state() gave. Throws Error where the entries are not those of this module.
  void load_state(const std::vector<State>& state);

 private:
  // A weight or a buffer, and its average.
  struct Entry {
    std::string name;
    Array average;
    bool averaged;
    int64_t begin = 0;
    bool is_slice = false;
    Array own = {};  // what the module had, while the averages are in
  };
  template <class F>
  void for_each(F&& visit);
  void publish();

  nn::Module& module_;
  AverageOptions options_;
  std::vector<Entry> entries_;
  Array updates_;
  bool swapped_ = false;
};

}  // namespace lockstep::optim
