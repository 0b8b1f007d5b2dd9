#include "lockstep/collectives/nccl/open.h"

#include "lockstep/runtime/plugin.h"

namespace lockstep::nccl {

Library& open_library(int device) {
  const Plugin plugin = open_plugin("liblockstep_cuda.so");
  if (plugin.handle == nullptr) {
    fail({"several ranks on CUDA devices need Lockstep's CUDA library, which cannot be opened: ",
          plugin.error, "; expected ", plugin.where, ", and CUDA's libraries and NCCL installed"});
  }
  char error[256] = {};
  Library* library =
      plugin.function<LibraryFunction>(kLibraryFunction)(device, error, sizeof error);
  LOCKSTEP_CHECK(library != nullptr, "NCCL cannot use CUDA device ", device, ": ",
                 std::string(error));
  return *library;
}

}  // namespace lockstep::nccl
