#pragma once

#include <omp.h>

namespace lockstep::cpu {

// oneDNN takes its thread count from OpenMP's setting of the calling thread: while one lives, that
// is this thread alone.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) {
    if (before_ != 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (before_ != 1) omp_set_num_threads(before_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

}  // namespace lockstep::cpu
