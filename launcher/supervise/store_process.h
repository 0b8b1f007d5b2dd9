#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lockstep::supervise {

// Hosts the store in which the ranks of this machine watch each other, in a process of its own that
// outlives every rank and ends with this process, however that ends. Requests to stop do not reach
// it. (With a second thread in this process its end would be signalled to mpirun twice, once a
// thread, and mpirun would leave its ranks behind.)
class StoreProcess {
 public:
  // To be called while this process has one thread, and no descriptor that the store is not to
  // have.
  static absl::StatusOr<std::unique_ptr<StoreProcess>> start(int ranks);
  // The store ends.
  ~StoreProcess();
  StoreProcess(const StoreProcess&) = delete;
  StoreProcess& operator=(const StoreProcess&) = delete;

  pid_t pid() const { return pid_; }
  // NAME=VALUE: what tells ranks of this machine where the store is, and its token.
  std::vector<std::string> environment() const;

 private:
  StoreProcess() = default;

  pid_t pid_ = -1;
  int life_ = -1;  // a pipe; the store ends when it is closed
  std::string port_;
  std::string token_;
};

}  // namespace lockstep::supervise
