// The only file that sees MPI. Built as a library of its own, so that programs start and run alone
// where MPI is not installed.
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "lockstep/collectives/mpi/library.h"

namespace lockstep::mpi {
namespace {

using Clock = std::chrono::steady_clock;

MPI_Datatype type_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return MPI_DOUBLE;
    case DType::f32: return MPI_FLOAT;
    case DType::i64: return MPI_INT64_T;
    case DType::i32: return MPI_INT32_T;
    case DType::u8: return MPI_UINT8_T;
    case DType::bf16:
    case DType::f16:
    case DType::boolean: break;
  }
  return MPI_DATATYPE_NULL;
}

MPI_Op op_of(Operation operation) {
  switch (operation) {
    case Operation::sum: return MPI_SUM;
    case Operation::max: return MPI_MAX;
    case Operation::min: return MPI_MIN;
  }
  return MPI_OP_NULL;
}

// MPI's own waiting keeps a core busy, which others could compute on: 25 MiB over a link of 1
// Gbit/s cost 217 ms of it. After a while each look is followed by a sleep, of a quarter of the
// time waited so far or `expected`, which costs 30 ms and no time on the link. On one host an
// answer comes sooner than a sleep ends. Returns MPI's code, and the time waited in `expected`.
int wait_politely(MPI_Request* requests, int count, bool one_host, Clock::duration& expected) {
  using std::chrono::microseconds;
  const Clock::time_point start = Clock::now();
  const Clock::duration usual = std::exchange(expected, {});
  for (;;) {
    int done = 0;
    if (const int code = MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE)) return code;
    const Clock::duration waited = Clock::now() - start;
    if (done != 0) {
      expected = waited;
      return MPI_SUCCESS;
    }
    if (waited < microseconds(one_host ? 1000 : 30)) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::clamp<Clock::duration>(
          std::max(waited, usual) / 4, microseconds(20), microseconds(1000)));
    }
  }
}

class MpiLibrary final : public Library {
 public:
  bool initialized() override {
    int flag = 0;
    MPI_Initialized(&flag);
    return flag != 0;
  }

  int init() override {
    int provided = 0;
    if (const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided)) {
      return code;
    }
    // Splits inherit it.
    if (const int code = MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN)) return code;
    return add(MPI_COMM_WORLD);
  }

  int finalize() override { return MPI_Finalize(); }

  int rank(int group) override {
    int rank = -1;
    MPI_Comm_rank(communicator(group), &rank);
    return rank;
  }

  int size(int group) override {
    int size = -1;
    MPI_Comm_size(communicator(group), &size);
    return size;
  }

  int all_reduce(int group, void* values, int count, DType dtype, Operation operation) override {
    if (count <= kFewValues) {
      MPI_Request request = MPI_REQUEST_NULL;
      if (const int code = MPI_Iallreduce(MPI_IN_PLACE, values, count, type_of(dtype),
                                          op_of(operation), communicator(group), &request)) {
        return code;
      }
      Clock::duration expected{};
      return wait_politely(&request, 1, one_host(group), expected);
    }
    return MPI_Allreduce(MPI_IN_PLACE, values, count, type_of(dtype), op_of(operation),
                         communicator(group));
  }

  int reduce_scatter(int group, const void* input, void* output, int count, DType dtype,
                     Operation operation) override {
    // Open MPI 4.1 chooses better algorithms for this call than for MPI_Reduce_scatter_block.
    counts_.assign(static_cast<size_t>(size(group)), count);
    return MPI_Reduce_scatter(input, output, counts_.data(), type_of(dtype), op_of(operation),
                              communicator(group));
  }

  int all_gather(int group, const void* input, void* output, int bytes, int64_t stride) override {
    const bool in_place = input == static_cast<char*>(output) + rank(group) * stride;
    const void* source = in_place ? MPI_IN_PLACE : input;
    if (stride == bytes) {
      return MPI_Allgather(source, bytes, MPI_BYTE, output, bytes, MPI_BYTE, communicator(group));
    }
    MPI_Datatype block;
    MPI_Datatype strided;
    MPI_Type_contiguous(bytes, MPI_BYTE, &block);
    MPI_Type_create_resized(block, 0, stride, &strided);
    MPI_Type_commit(&strided);
    const int code =
        MPI_Allgather(source, bytes, MPI_BYTE, output, 1, strided, communicator(group));
    MPI_Type_free(&strided);
    MPI_Type_free(&block);
    return code;
  }

  int all_to_all(int group, const void* input, void* output, int bytes) override {
    return MPI_Alltoall(input, bytes, MPI_BYTE, output, bytes, MPI_BYTE, communicator(group));
  }

  int broadcast(int group, void* values, int bytes, int root) override {
    return MPI_Bcast(values, bytes, MPI_BYTE, root, communicator(group));
  }

  int split(int group, int color, int key, int* part) override {
    MPI_Comm result = MPI_COMM_NULL;
    if (const int code = MPI_Comm_split(communicator(group), color, key, &result)) return code;
    *part = static_cast<int>(groups_.size());
    return add(result);
  }

  bool one_host(int group) override { return groups_[static_cast<size_t>(group)].one_host; }

  int post(int lane, int group, const Exchange& exchange) override {
    const MPI_Comm comm = communicator(group);
    MPI_Request* requests = requests_[lane];
    lane_on_one_host_[lane] = one_host(group);
    if (const int code = MPI_Irecv(exchange.in, exchange.in_bytes, MPI_BYTE, exchange.from, lane,
                                   comm, &requests[0])) {
      return code;
    }
    return MPI_Isend(exchange.out, exchange.out_bytes, MPI_BYTE, exchange.to, lane, comm,
                     &requests[1]);
  }

  int complete(int lane) override {
    return wait_politely(requests_[lane], 2, lane_on_one_host_[lane], expected_[lane]);
  }

  void error_text(int code, char* text, int capacity) override {
    char message[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(code, message, &length);
    std::strncpy(text, message, static_cast<size_t>(capacity) - 1);
    text[capacity - 1] = '\0';
  }

 private:
  // Where ranks first meet, one may wait long for another.
  static constexpr int kFewValues = 8;

  struct Group {
    MPI_Comm communicator;
    bool one_host;
  };

  MPI_Comm communicator(int group) const {
    return groups_[static_cast<size_t>(group)].communicator;
  }

  int add(MPI_Comm communicator) {
    MPI_Comm neighbours = MPI_COMM_NULL;
    if (const int code = MPI_Comm_split_type(communicator, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL,
                                             &neighbours)) {
      return code;
    }
    int all = 0, here = 0;
    MPI_Comm_size(communicator, &all);
    MPI_Comm_size(neighbours, &here);
    groups_.push_back({communicator, here == all});
    return MPI_Comm_free(&neighbours);
  }

  std::vector<Group> groups_;
  MPI_Request requests_[kLanes][2];
  bool lane_on_one_host_[kLanes] = {};
  Clock::duration expected_[kLanes] = {};  // as long as the last exchange of a lane took
  std::vector<int> counts_;
};

}  // namespace
}  // namespace lockstep::mpi

extern "C" __attribute__((visibility("default"))) lockstep::mpi::Library* lockstep_mpi_library_2() {
  static lockstep::mpi::MpiLibrary library;
  return &library;
}
