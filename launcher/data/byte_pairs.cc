#include "lockstep/launcher/data/byte_pairs.h"

#include <algorithm>
#include <utility>

#include "lockstep/runtime/error.h"

namespace lockstep::data {
namespace {

uint64_t key_of(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

BytePairs::BytePairs(const std::array<int32_t, 256>& byte_tokens, std::vector<Merge> merges)
    : byte_tokens_(byte_tokens), merges_(std::move(merges)) {
  ranks_.reserve(merges_.size());
  for (size_t rank = 0; rank < merges_.size(); ++rank) {
    ranks_.emplace(key_of(merges_[rank].left, merges_[rank].right), static_cast<int32_t>(rank));
  }
}

int32_t BytePairs::rank_of(int32_t left, int32_t right) const {
  const auto found = ranks_.find(key_of(left, right));
  return found == ranks_.end() ? -1 : found->second;
}

void WordMerger::append(std::string_view word, std::vector<int32_t>& tokens) {
  if (word.empty()) return;
  start(word);
  while (!candidates_.empty()) {
    const Candidate best = candidates_.front();
    std::pop_heap(candidates_.begin(), candidates_.end());
    candidates_.pop_back();
    if (is_current(best)) merge(best);
  }
  for (int64_t i = 0; i >= 0; i = symbols_[i].next) tokens.push_back(symbols_[i].token);
}

void WordMerger::start(std::string_view word) {
  const auto size = static_cast<int64_t>(word.size());
  symbols_.clear();
  for (int64_t i = 0; i < size; ++i) {
    const auto byte = static_cast<unsigned char>(word[i]);
    const int32_t token = pairs_.token_of(byte);
    if (token < 0) fail_usage({"the vocabulary has no token for byte ", unsigned{byte}});
    symbols_.push_back({token, i - 1, i + 1 < size ? i + 1 : -1});
  }
  candidates_.clear();
  for (int64_t i = 0; i + 1 < size; ++i) propose(i);
}

void WordMerger::propose(int64_t left) {
  const int32_t rank = pairs_.rank_of(symbols_[left].token, symbols_[symbols_[left].next].token);
  if (rank < 0) return;
  candidates_.push_back({rank, left});
  std::push_heap(candidates_.begin(), candidates_.end());
}

// A merge next to a candidate leaves it in the heap, about a pair that is no more.
bool WordMerger::is_current(const Candidate& candidate) const {
  const Symbol& left = symbols_[candidate.left];
  const Merge& pair = pairs_.merge(candidate.rank);
  return left.token == pair.left && left.next >= 0 && symbols_[left.next].token == pair.right;
}

void WordMerger::merge(const Candidate& candidate) {
  Symbol& left = symbols_[candidate.left];
  Symbol& right = symbols_[left.next];
  left.token = pairs_.merge(candidate.rank).merged;
  left.next = right.next;
  right.token = -1;
  if (left.next >= 0) {
    symbols_[left.next].previous = candidate.left;
    propose(candidate.left);
  }
  if (left.previous >= 0) propose(left.previous);
}

}  // namespace lockstep::data
