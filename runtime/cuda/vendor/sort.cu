#include "lockstep/runtime/cuda/sort.h"

#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/tabulate_output_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_reduce.cuh>
#include <cub/device/device_select.cuh>

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/sort_keys.h"
#include "lockstep/runtime/cuda/vendor/check.h"

namespace lockstep::cuda {
namespace {

// Runs a function of CUB: once to ask how much memory it needs, once to work.
template <class Call>
void with_memory(Queue& queue, const Call& call) {
  size_t bytes = 0;
  cudaError_t code = call(static_cast<void*>(nullptr), bytes);
  if (code == cudaSuccess) {
    const Scratch memory(queue, bytes == 0 ? 1 : bytes);
    code = call(static_cast<void*>(memory.as<char>()), bytes);
  }
  check(code, "CUB");
}

// Bits that tell `count` numbers apart.
int bits_of(uint64_t count) {
  int bits = 0;
  while (bits < 64 && count > (uint64_t{1} << bits)) ++bits;
  return bits;
}

// Leaves the sorted keys and values in the first of each pair.
template <class Key, class Value>
void sort_pairs(cub::DoubleBuffer<Key>& keys, cub::DoubleBuffer<Value>& values, int64_t count,
                int bits, Queue& queue) {
  with_memory(queue, [&](void* memory, size_t& bytes) {
    return cub::DeviceRadixSort::SortPairs(memory, bytes, keys, values, count, 0, bits,
                                           queue.stream());
  });
}

// Keys of up to 32 bits: the row above the key, all rows in one sort.
template <class T>
void sort_narrow(const View& x, bool descending, const View& index, Queue& queue) {
  constexpr int kBits = 8 * static_cast<int>(sizeof(T));
  const int64_t count = x.elements();
  const auto n = static_cast<size_t>(count);
  const Scratch key_memory(queue, 2 * n * sizeof(uint64_t));
  const Scratch place_memory(queue, 2 * n * sizeof(uint32_t));
  cub::DoubleBuffer<uint64_t> keys(key_memory.as<uint64_t>(), key_memory.as<uint64_t>() + count);
  cub::DoubleBuffer<uint32_t> places(place_memory.as<uint32_t>(),
                                     place_memory.as<uint32_t>() + count);
  launch(RowKeysBody<T>{x.as<T>(), count, x.shape[1], descending, keys.Current(), places.Current()},
         {.blocks = blocks_for(count, queue)}, queue);
  sort_pairs(keys, places, count, kBits + bits_of(static_cast<uint64_t>(x.shape[0])), queue);
  const int64_t kept = index.shape[1];
  launch(FirstPlacesBody<uint32_t>{places.Current(), x.shape[1], kept, index.elements(),
                                   index.as<int64_t>()},
         {.blocks = blocks_for(index.elements(), queue)}, queue);
}

// Keys of 64 bits: by the key, then, as sorting is stable, by the row.
template <class T>
void sort_wide(const View& x, bool descending, const View& index, Queue& queue) {
  const int64_t count = x.elements();
  const auto n = static_cast<size_t>(count);
  const Scratch key_memory(queue, 2 * n * sizeof(uint64_t));
  const Scratch place_memory(queue, 2 * n * sizeof(int64_t));
  cub::DoubleBuffer<uint64_t> keys(key_memory.as<uint64_t>(), key_memory.as<uint64_t>() + count);
  cub::DoubleBuffer<int64_t> places(place_memory.as<int64_t>(), place_memory.as<int64_t>() + count);
  launch(WideKeysBody<T>{x.as<T>(), count, descending, keys.Current(), places.Current()},
         {.blocks = blocks_for(count, queue)}, queue);
  sort_pairs(keys, places, count, 64, queue);
  if (x.shape[0] > 1) {
    launch(RowsOfPlacesBody{places.Current(), count, x.shape[1], keys.Current()},
           {.blocks = blocks_for(count, queue)}, queue);
    sort_pairs(keys, places, count, bits_of(static_cast<uint64_t>(x.shape[0])), queue);
  }
  const int64_t kept = index.shape[1];
  launch(FirstPlacesBody<int64_t>{places.Current(), x.shape[1], kept, index.elements(),
                                  index.as<int64_t>()},
         {.blocks = blocks_for(index.elements(), queue)}, queue);
}

struct IsSet {
  const uint8_t* mask;
  __host__ __device__ bool operator()(int64_t i) const { return mask[i] != 0; }
};

struct CountSet {
  const uint8_t* mask;
  __host__ __device__ int64_t operator()(int64_t i) const { return mask[i] != 0 ? 1 : 0; }
};

struct KeepWhileRoom {
  int64_t* positions;
  int64_t room;
  __host__ __device__ void operator()(int64_t at, int64_t place) const {
    if (at < room) positions[at] = place;
  }
};

}  // namespace

void sort(const View& x, bool descending, const View& index, Queue& queue) {
  if (index.elements() == 0) return;
  switch (x.dtype) {
    case DType::f64: return sort_wide<double>(x, descending, index, queue);
    case DType::i64: return sort_wide<int64_t>(x, descending, index, queue);
    case DType::f32: return sort_narrow<float>(x, descending, index, queue);
    case DType::i32: return sort_narrow<int32_t>(x, descending, index, queue);
    case DType::bf16: return sort_narrow<BFloat16>(x, descending, index, queue);
    case DType::f16: return sort_narrow<Float16>(x, descending, index, queue);
    default: return sort_narrow<uint8_t>(x, descending, index, queue);
  }
}

int64_t nonzero(const View& mask, const View& positions, Queue& queue) {
  const int64_t count = mask.elements();
  if (count == 0) return 0;
  const int64_t room = positions.data == nullptr ? 0 : positions.elements();
  const thrust::counting_iterator<int64_t> places(0);
  const Scratch found(queue, sizeof(int64_t));
  with_memory(queue, [&](void* memory, size_t& bytes) {
    if (room == 0) {
      const auto ones = thrust::make_transform_iterator(places, CountSet{mask.as<uint8_t>()});
      return cub::DeviceReduce::Sum(memory, bytes, ones, found.as<int64_t>(), count,
                                    queue.stream());
    }
    const auto kept =
        thrust::make_tabulate_output_iterator(KeepWhileRoom{positions.as<int64_t>(), room});
    return cub::DeviceSelect::If(memory, bytes, places, kept, found.as<int64_t>(), count,
                                 IsSet{mask.as<uint8_t>()}, queue.stream());
  });
  int64_t result = 0;
  queue.read(&result, found.as<int64_t>(), sizeof result);
  return result;
}

void sort_keys(const int64_t* keys, int64_t count, int64_t bound, int64_t* sorted, int64_t* order,
               Queue& queue) {
  if (count == 0) return;
  const Scratch places(queue, static_cast<size_t>(count) * sizeof(int64_t));
  launch(CountBody{places.as<int64_t>(), count}, {.blocks = blocks_for(count, queue)}, queue);
  with_memory(queue, [&](void* memory, size_t& bytes) {
    return cub::DeviceRadixSort::SortPairs(memory, bytes, keys, sorted, places.as<int64_t>(), order,
                                           count, 0, bits_of(static_cast<uint64_t>(bound)),
                                           queue.stream());
  });
}

}  // namespace lockstep::cuda
