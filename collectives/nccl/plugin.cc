// The only file that sees NCCL. Part of the CUDA library, so that programs start and run on CPUs
// where neither is installed.
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstdio>
#include <cstring>
#include <deque>

#include "lockstep/collectives/nccl/library.h"

namespace lockstep::nccl {
namespace {

static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId));

constexpr int kFirstCudaError = 1000;

int code_of(ncclResult_t result) {
  return result == ncclInProgress ? Library::kInProgress : static_cast<int>(result);
}

int code_of(cudaError_t error) { return error == cudaSuccess ? 0 : kFirstCudaError + error; }

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return ncclFloat64;
    case DType::f32: return ncclFloat32;
    case DType::bf16: return ncclBfloat16;
    case DType::f16: return ncclFloat16;
    case DType::i64: return ncclInt64;
    case DType::i32: return ncclInt32;
    case DType::u8:
    case DType::boolean: break;
  }
  return ncclUint8;
}

ncclRedOp_t op_of(ReduceOp reduction) {
  switch (reduction) {
    case ReduceOp::sum: return ncclSum;
    case ReduceOp::mean: return ncclAvg;
    case ReduceOp::max: return ncclMax;
    case ReduceOp::min: return ncclMin;
  }
  return ncclSum;
}

// A call that does not block leaves what it has begun to a thread of NCCL's.
ncclConfig_t without_blocking() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

class NcclLibrary final : public Library {
 public:
  explicit NcclLibrary(int device) : device_(device) {}

  int open() {
    if (const cudaError_t error = cudaSetDevice(device_)) return code_of(error);
    int least = 0, greatest = 0;
    if (const cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest)) {
      return code_of(error);
    }
    return code_of(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest));
  }

  int make_unique_id(UniqueId* id) override {
    return code_of(ncclGetUniqueId(reinterpret_cast<ncclUniqueId*>(id)));
  }

  int init(const UniqueId& id, int rank, int size) override {
    use_device();
    ncclUniqueId unique_id;
    std::memcpy(&unique_id, &id, sizeof unique_id);
    ncclConfig_t config = without_blocking();
    Group& world = groups_.emplace_back();
    return code_of(ncclCommInitRankConfig(&world.communicator, size, unique_id, rank, &config));
  }

  int state(int group) override {
    Group& of = groups_[static_cast<size_t>(group)];
    if (of.parent >= 0) {
      // NCCL makes the part known when the parent is ready.
      if (const int code = state(of.parent)) return code;
      of.parent = -1;
    }
    ncclResult_t result = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(of.communicator, &result);
    return code_of(asked == ncclSuccess ? result : asked);
  }

  int split(int group, int color, int key, int* part) override {
    use_device();
    ncclConfig_t config = without_blocking();
    *part = static_cast<int>(groups_.size());
    Group& result = groups_.emplace_back();
    result.parent = group;
    return code_of(ncclCommSplit(communicator(group), color, key, &result.communicator, &config));
  }

  int abort(int group) override { return end(group, ncclCommAbort); }
  int destroy(int group) override { return end(group, ncclCommDestroy); }

  int finalize(int group) override {
    use_device();
    return code_of(ncclCommFinalize(communicator(group)));
  }

  int all_reduce(int group, void* values, int64_t count, DType dtype, ReduceOp reduction) override {
    use_device();
    return code_of(ncclAllReduce(values, values, static_cast<size_t>(count), type_of(dtype),
                                 op_of(reduction), communicator(group), stream_));
  }

  int reduce_scatter(int group, const void* input, void* output, int64_t count, DType dtype,
                     ReduceOp reduction) override {
    use_device();
    return code_of(ncclReduceScatter(input, output, static_cast<size_t>(count), type_of(dtype),
                                     op_of(reduction), communicator(group), stream_));
  }

  int all_gather(int group, const void* input, void* output, int64_t count, DType dtype) override {
    use_device();
    return code_of(ncclAllGather(input, output, static_cast<size_t>(count), type_of(dtype),
                                 communicator(group), stream_));
  }

  int broadcast(int group, void* values, int64_t count, DType dtype, int root) override {
    use_device();
    return code_of(ncclBroadcast(values, values, static_cast<size_t>(count), type_of(dtype), root,
                                 communicator(group), stream_));
  }

  int allocate(size_t bytes, void** data) override {
    use_device();
    return code_of(ncclMemAlloc(data, bytes));
  }
  int free(void* data) override {
    use_device();
    return code_of(ncclMemFree(data));
  }
  int enroll(int group, void* data, size_t bytes, void** registration) override {
    use_device();
    return code_of(ncclCommRegister(communicator(group), data, bytes, registration));
  }
  int withdraw(int group, void* registration) override {
    if (registration == nullptr) return 0;  // NCCL had no use for it
    use_device();
    return code_of(ncclCommDeregister(communicator(group), registration));
  }

  int allocate_staging(size_t bytes, void** host, void** device) override {
    use_device();
    if (const cudaError_t error = cudaMallocHost(host, bytes)) return code_of(error);
    const cudaError_t error = cudaMalloc(device, bytes);
    if (error != cudaSuccess) {
      cudaGetLastError();  // it is no error of the next call
      cudaFreeHost(*host);
    }
    return code_of(error);
  }
  int copy(void* to, const void* from, size_t bytes) override {
    use_device();
    return code_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_));
  }

  Stream stream() override { return stream_; }
  int make_event(Event* event) override {
    use_device();
    cudaEvent_t made = nullptr;
    const cudaError_t error = cudaEventCreate(&made);
    *event = made;
    return code_of(error);
  }
  int record(Event event, Stream stream) override {
    use_device();
    return code_of(
        cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream)));
  }
  int wait(Stream stream, Event event) override {
    use_device();
    return code_of(
        cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event), 0));
  }
  int query(Event event, bool* done) override {
    const cudaError_t error = cudaEventQuery(static_cast<cudaEvent_t>(event));
    *done = error == cudaSuccess;
    if (error != cudaErrorNotReady) return code_of(error);
    cudaGetLastError();  // it is no error of the next call
    return 0;
  }
  int elapsed(Event from, Event to, float* milliseconds) override {
    return code_of(cudaEventElapsedTime(milliseconds, static_cast<cudaEvent_t>(from),
                                        static_cast<cudaEvent_t>(to)));
  }

  void error_text(int code, int group, char* text, int capacity) override {
    const auto size = static_cast<size_t>(capacity);
    if (code >= kFirstCudaError) {
      const auto error = static_cast<cudaError_t>(code - kFirstCudaError);
      std::snprintf(text, size, "CUDA says: %s", cudaGetErrorString(error));
      return;
    }
    const bool known = group >= 0 && static_cast<size_t>(group) < groups_.size();
    const char* more = ncclGetLastError(known ? communicator(group) : nullptr);
    std::snprintf(text, size, "NCCL says: %s%s%s",
                  ncclGetErrorString(static_cast<ncclResult_t>(code)),
                  more != nullptr && *more != 0 ? ": " : "", more != nullptr ? more : "");
  }

 private:
  struct Group {
    ncclComm_t communicator = nullptr;
    int parent = -1;  // of a split under way
  };

  ncclComm_t communicator(int group) const {
    return groups_[static_cast<size_t>(group)].communicator;
  }

  void use_device() const { cudaSetDevice(device_); }

  int end(int group, ncclResult_t (*call)(ncclComm_t)) {
    use_device();
    ncclComm_t& communicator = groups_[static_cast<size_t>(group)].communicator;
    if (communicator == nullptr) return 0;
    const ncclResult_t result = call(communicator);
    communicator = nullptr;
    return code_of(result);
  }

  int device_;
  cudaStream_t stream_ = nullptr;
  std::deque<Group> groups_;  // they stay where they are: NCCL writes there later
};

}  // namespace
}  // namespace lockstep::nccl

extern "C" __attribute__((visibility("default"))) lockstep::nccl::Library* lockstep_nccl_library_1(
    int device, char* error, int capacity) {
  auto* library = new lockstep::nccl::NcclLibrary(device);
  if (const int code = library->open()) {
    library->error_text(code, -1, error, capacity);
    delete library;
    return nullptr;
  }
  return library;
}
