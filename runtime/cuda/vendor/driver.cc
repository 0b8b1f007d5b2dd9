#include "lockstep/runtime/cuda/driver.h"

#include <cuda_runtime_api.h>

#include "lockstep/runtime/cuda/vendor/check.h"

namespace lockstep::cuda {
namespace {

std::string version_text(int version) { return concat({version / 1000, ".", version % 1000 / 10}); }

class CudaDriver final : public Driver {
 public:
  explicit CudaDriver(int index) : index_(index) { use(); }

  DeviceProperties properties() override {
    cudaDeviceProp found{};
    LOCKSTEP_CUDA(cudaGetDeviceProperties(&found, index_));
    return {.name = found.name,
            .major = found.major,
            .minor = found.minor,
            .multiprocessors = found.multiProcessorCount};
  }

  void use() override { LOCKSTEP_CUDA(cudaSetDevice(index_)); }

  void* allocate(size_t bytes) override {
    use();
    void* data = nullptr;
    const cudaError_t code = cudaMalloc(&data, bytes);
    if (code == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // it is no error of the next call
      return nullptr;
    }
    check(code, "cudaMalloc");
    return data;
  }
  void free(void* data) override {
    use();
    LOCKSTEP_CUDA(cudaFree(data));
  }
  void* allocate_pinned(size_t bytes) override {
    use();
    void* data = nullptr;
    if (cudaMallocHost(&data, bytes) == cudaSuccess) return data;
    cudaGetLastError();  // it is no error of the next call
    return nullptr;
  }
  void free_pinned(void* data) noexcept override { cudaFreeHost(data); }
  Stream make_stream() override {
    use();
    cudaStream_t stream = nullptr;
    LOCKSTEP_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
  }

  void copy(void* to, const void* from, size_t bytes, Stream stream) override {
    use();
    LOCKSTEP_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
  }
  void set_zero(void* to, size_t bytes, Stream stream) override {
    use();
    LOCKSTEP_CUDA(cudaMemsetAsync(to, 0, bytes, stream));
  }
  void synchronize(Stream stream) override {
    use();
    LOCKSTEP_CUDA(cudaStreamSynchronize(stream));
  }

  Event record(Stream stream) override {
    use();
    cudaEvent_t event = nullptr;
    LOCKSTEP_CUDA(cudaEventCreate(&event));
    const cudaError_t code = cudaEventRecord(event, stream);
    if (code != cudaSuccess) cudaEventDestroy(event);
    check(code, "cudaEventRecord");
    return event;
  }
  Event record_in_graph(Stream stream) override {
    use();
    cudaEvent_t event = nullptr;
    LOCKSTEP_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    const cudaError_t code = cudaEventRecordWithFlags(event, stream, cudaEventRecordExternal);
    if (code != cudaSuccess) cudaEventDestroy(event);
    check(code, "cudaEventRecordWithFlags");
    return event;
  }
  bool is_reached(Event event) override {
    use();
    const cudaError_t code = cudaEventQuery(event);
    if (code != cudaErrorNotReady) check(code, "cudaEventQuery");
    if (code != cudaSuccess) cudaGetLastError();  // it is no error of the next call
    return code == cudaSuccess;
  }
  void wait(Event event) override {
    use();
    LOCKSTEP_CUDA(cudaEventSynchronize(event));
  }
  double seconds_between(Event from, Event to) override {
    use();
    float milliseconds = 0;
    LOCKSTEP_CUDA(cudaEventElapsedTime(&milliseconds, from, to));
    return milliseconds * 1e-3;
  }
  void destroy(Event event) noexcept override { cudaEventDestroy(event); }

  // Relaxed: memory may be taken from the device meanwhile, and code loaded.
  void begin_capture(Stream stream) override {
    use();
    LOCKSTEP_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  }
  Graph end_capture(Stream stream, Stream launched_on) override {
    use();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cudaError_t code = cudaStreamEndCapture(stream, &graph);
    if (code == cudaSuccess) code = cudaGraphInstantiate(&executable, graph, 0);
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (code == cudaSuccess) code = cudaGraphUpload(executable, launched_on);
    if (code == cudaSuccess) return executable;
    cudaGetLastError();  // it is no error of the next call
    return nullptr;
  }
  // A device that has failed says so to the next call that is waited for.
  void abandon_capture(Stream stream) noexcept override {
    cudaSetDevice(index_);
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
  }
  void launch(Graph graph, Stream stream) override {
    use();
    LOCKSTEP_CUDA(cudaGraphLaunch(graph, stream));
  }
  void destroy(Graph graph) noexcept override {
    cudaSetDevice(index_);
    cudaGraphExecDestroy(graph);
    cudaGetLastError();
  }

 private:
  int index_;
};

}  // namespace

std::unique_ptr<Driver> make_driver(int index) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (code == cudaErrorInsufficientDriver && driver == 0) {
    fail({"no device cuda:", index, ": the NVIDIA driver is missing"});
  }
  if (code == cudaErrorInsufficientDriver) {
    fail({"no device cuda:", index, ": the NVIDIA driver offers CUDA ", version_text(driver),
          ", this build needs ", version_text(runtime)});
  }
  if (code == cudaErrorNoDevice || (code == cudaSuccess && count == 0)) {
    fail({"no device cuda:", index,
          ": the NVIDIA driver shows no GPU (is CUDA_VISIBLE_DEVICES set?)"});
  }
  check(code, "cudaGetDeviceCount");
  LOCKSTEP_CHECK(index < count, "no device cuda:", index, ": this machine shows ", count);
  return std::make_unique<CudaDriver>(index);
}

int visible_devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace lockstep::cuda
