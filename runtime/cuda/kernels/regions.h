#pragma once

#include <cstdint>
#include <cstdlib>

#include "lockstep/runtime/cuda/kernels/operand.h"
#include "lockstep/runtime/cuda/strided.h"

// How elementwise kernels go over operands of one shape.
namespace lockstep::cuda {

// Operands of fewer than 2^31 elements, which lie less than 2^31 elements apart in each. The output
// is the last.
template <int kOperands>
struct Region {
  Operand operands[kOperands];
  Strided<kOperands, int32_t> layout;
  uint32_t count;
  // Runs of a whole number of packs, which lie together in each operand or are one element.
  bool packed;
};

// Cuts operands into regions, with the dimensions in the order in which the output lies in memory.
// An operand without data has any shape.
template <int kOperands>
class Cut {
 public:
  // `pack`: the elements that a thread takes at once.
  Cut(const View* const (&operands)[kOperands], int pack) : pack_(pack) {
    const View& output = *operands[kOperands - 1];
    int order[View::kMaxRank];
    for (int d = 0; d < output.rank; ++d) {
      if (output.shape[d] != 1) insert(output, d, order);
    }
    for (int i = 0; i < kOperands; ++i) {
      views_[i].data = operands[i]->data;
      views_[i].dtype = operands[i]->dtype;
      views_[i].rank = rank_;
      for (int d = 0; d < rank_; ++d) {
        views_[i].shape[d] = output.shape[order[d]];
        views_[i].strides[d] = views_[i].data == nullptr ? 0 : operands[i]->strides[order[d]];
      }
    }
    for (int d = 0; d < rank_; ++d) chunk_[d] = output.shape[order[d]];
    count_ = output.elements() == 0 ? 0 : 1;
    if (count_ == 0) return;
    while (shrink()) continue;
    for (int d = 0; d < rank_; ++d) count_ *= chunks(d);
  }

  int64_t count() const { return count_; }

  Region<kOperands> region(int64_t index) const {
    View parts[kOperands];
    for (int i = 0; i < kOperands; ++i) parts[i] = views_[i];
    for (int d = rank_ - 1; d >= 0; --d) {
      const int64_t begin = index % chunks(d) * chunk_[d];
      const int64_t left = views_[0].shape[d] - begin;
      index /= chunks(d);
      for (View& part : parts) {
        part.shape[d] = left < chunk_[d] ? left : chunk_[d];
        if (part.data == nullptr) continue;
        const int64_t bytes = begin * part.strides[d] * static_cast<int64_t>(size_of(part.dtype));
        part.data = static_cast<char*>(part.data) + bytes;
      }
    }
    const View* pointers[kOperands];
    Operand operands[kOperands];
    for (int i = 0; i < kOperands; ++i) {
      pointers[i] = &parts[i];
      operands[i] = Operand(parts[i]);
    }
    Region<kOperands> result{{}, Strided<kOperands, int32_t>(pointers), 0, false};
    for (int i = 0; i < kOperands; ++i) result.operands[i] = operands[i];
    result.count = static_cast<uint32_t>(parts[0].elements());
    result.packed = packed(result);
    return result;
  }

 private:
  void insert(const View& output, int d, int* order) {
    int place = rank_++;
    for (; place > 0; --place) {
      if (std::abs(output.strides[order[place - 1]]) >= std::abs(output.strides[d])) break;
      order[place] = order[place - 1];
    }
    order[place] = d;
  }

  int64_t chunks(int d) const { return (views_[0].shape[d] + chunk_[d] - 1) / chunk_[d]; }

  // Halves one dimension if the chunk is too large.
  bool shrink() {
    constexpr int64_t kMost = (int64_t{1} << 31) - 1;
    for (const View& view : views_) {
      int64_t reach = 0, farthest = 0;
      int which = 0;
      for (int d = 0; d < rank_; ++d) {
        const int64_t here = (chunk_[d] - 1) * std::abs(view.strides[d]);
        reach += here;
        if (here > farthest) farthest = here, which = d;
      }
      if (reach > kMost) return halve(which);
    }
    int64_t elements = 1;
    for (int d = 0; d < rank_; ++d) elements *= chunk_[d];
    if (elements <= kMost) return false;
    int outermost = 0;
    while (chunk_[outermost] == 1) ++outermost;
    return halve(outermost);
  }
  bool halve(int d) {
    constexpr int64_t kRound = 16;  // whole packs
    const int64_t half = (chunk_[d] + 1) / 2;
    chunk_[d] = half <= kRound ? half : (half + kRound - 1) / kRound * kRound;
    return true;
  }

  bool packed(const Region<kOperands>& region) const {
    const auto& layout = region.layout;
    if (layout.rank == 0 || layout.strides[kOperands - 1][0] != 1) return false;
    if (layout.rank > 1 && layout.shape[0].value % static_cast<uint32_t>(pack_) != 0) return false;
    for (int i = 0; i < kOperands; ++i) {
      if (layout.strides[i][0] == 0) continue;
      if (layout.strides[i][0] != 1) return false;
      if (reinterpret_cast<uintptr_t>(region.operands[i].data) % sizeof(Sixteen) != 0) return false;
      for (int d = 1; d < layout.rank; ++d) {
        if (layout.strides[i][d] % pack_ != 0) return false;
      }
    }
    return true;
  }

  int pack_;
  int rank_ = 0;
  int64_t count_ = 0;
  View views_[kOperands];
  int64_t chunk_[View::kMaxRank];
};

// The elements of a region that a thread has at once: kItems in a row, or, where the region is not
// packed, `spacing` apart, so that neighbours lie in neighbouring threads.
template <int kOperands, int kItems>
class Items {
 public:
  LOCKSTEP_HD Items(const Region<kOperands>& region, uint32_t first, uint32_t spacing)
      : region_(region), first_(first), spacing_(spacing) {
    whole_ = region.packed && first + kItems <= region.count;
    const auto& layout = region.layout;
    for (int i = 0; i < kOperands; ++i) {
      for (int j = 0; j < kItems; ++j) at_[i][j] = 0;
    }
    if (whole_) {
      uint32_t index = first;
      for (int d = 0; d < layout.rank; ++d) step<1>(d, &index);
    } else {
      uint32_t index[kItems];
      for (int j = 0; j < kItems; ++j) {
        const uint32_t here = first + static_cast<uint32_t>(j) * spacing;
        index[j] = here < region.count ? here : region.count - 1;
      }
      for (int d = 0; d < layout.rank; ++d) step<kItems>(d, index);
    }
  }

  // Zeros where the operand has no data.
  template <class C>
  LOCKSTEP_HD void load(int operand, C (&out)[kItems]) const {
    const Operand& x = region_.operands[operand];
    if (x.data == nullptr) {
      for (C& value : out) value = C(0);
    } else if (!whole_) {
      load_each(x, at_[operand], out);
    } else if (region_.layout.strides[operand][0] != 0) {
      load_pack(x.data, x.dtype, at_[operand][0], out);
    } else {
      const C value = x.get<C>(at_[operand][0]);
      for (C& one : out) one = value;
    }
  }
  template <class C>
  LOCKSTEP_HD void store(int operand, const C (&values)[kItems]) const {
    const Operand& y = region_.operands[operand];
    if (whole_) {
      store_pack(y.data, y.dtype, at_[operand][0], values);
      return;
    }
    for (int j = 0; j < kItems; ++j) {
      if (first_ + static_cast<uint32_t>(j) * spacing_ < region_.count) {
        y.put<C>(at_[operand][j], values[j]);
      }
    }
  }
  // As they lie in memory.
  template <class Bits>
  LOCKSTEP_HD void load_bits(int operand, Bits (&out)[kItems]) const {
    const auto* x = static_cast<const Bits*>(region_.operands[operand].data);
    if (!whole_) {
      for (int j = 0; j < kItems; ++j) out[j] = x[at_[operand][j]];
    } else if (region_.layout.strides[operand][0] != 0) {
      load_together(x + at_[operand][0], out);
    } else {
      const Bits value = x[at_[operand][0]];
      for (Bits& one : out) one = value;
    }
  }
  template <class Bits>
  LOCKSTEP_HD void store_bits(int operand, const Bits (&values)[kItems]) const {
    auto* y = static_cast<Bits*>(region_.operands[operand].data);
    if (whole_) {
      store_together(y + at_[operand][0], values);
      return;
    }
    for (int j = 0; j < kItems; ++j) {
      if (first_ + static_cast<uint32_t>(j) * spacing_ < region_.count) {
        y[at_[operand][j]] = values[j];
      }
    }
  }

 private:
  // Adds what dimension d contributes to kCount places.
  template <int kCount>
  LOCKSTEP_HD void step(int d, uint32_t* index) {
    const auto& layout = region_.layout;
    for (int j = 0; j < kCount; ++j) {
      const uint32_t outer = layout.shape[d].divide(index[j]);
      const auto here = static_cast<int32_t>(index[j] - outer * layout.shape[d].value);
      for (int i = 0; i < kOperands; ++i) at_[i][j] += here * layout.strides[i][d];
      index[j] = outer;
    }
  }
  template <class C>
  LOCKSTEP_HD static void load_each(const Operand& x, const int32_t (&at)[kItems],
                                    C (&out)[kItems]) {
    const auto from = [&]<DType kDtype>() {
      for (int j = 0; j < kItems; ++j) out[j] = cuda::load<C>(x.data, kDtype, at[j]);
    };
    if constexpr (std::is_same_v<C, double>) {
      from.template operator()<DType::f64>();
    } else if constexpr (std::is_same_v<C, float>) {
      switch (x.dtype) {
        case DType::bf16: from.template operator()<DType::bf16>(); break;
        case DType::f16: from.template operator()<DType::f16>(); break;
        default: from.template operator()<DType::f32>();
      }
    } else {
      switch (x.dtype) {
        case DType::i64: from.template operator()<DType::i64>(); break;
        case DType::i32: from.template operator()<DType::i32>(); break;
        default: from.template operator()<DType::u8>();
      }
    }
  }

  const Region<kOperands>& region_;
  uint32_t first_, spacing_;
  bool whole_;
  int32_t at_[kOperands][kItems];
};

}  // namespace lockstep::cuda
