#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace lockstep::data {

// The two neighbours that become one token.
struct Merge {
  int32_t left;
  int32_t right;
  int32_t merged;
};

// What byte-pair encoding (Sennrich, Haddow, Birch: "Neural machine translation of rare words with
// subword units", ACL 2016) knows: a token for each byte and merges, the most frequent first.
class BytePairs {
 public:
  // -1 for a byte that has no token. The first of equal pairs counts.
  BytePairs(const std::array<int32_t, 256>& byte_tokens, std::vector<Merge> merges);

  int32_t token_of(unsigned char byte) const { return byte_tokens_[byte]; }
  const Merge& merge(int32_t rank) const { return merges_[rank]; }
  // The place of a pair among the merges, -1 where it is none.
  int32_t rank_of(int32_t left, int32_t right) const;

 private:
  std::array<int32_t, 256> byte_tokens_;
  std::vector<Merge> merges_;
  std::unordered_map<uint64_t, int32_t> ranks_;
};

// Encodes words one after the other; holds the memory for it. For one thread.
class WordMerger {
 public:
  explicit WordMerger(const BytePairs& pairs) : pairs_(pairs) {}

  // Appends the word's tokens: its bytes, with the pair of lowest rank (the leftmost of equals)
  // merged until no pair is left. n log n in the bytes of the word. UsageError for a byte that has
  // no token.
  void append(std::string_view word, std::vector<int32_t>& tokens);

 private:
  // A piece of the word, in a list: the places of its neighbours, -1 at the ends. A piece that was
  // merged into the one before has token -1.
  struct Symbol {
    int32_t token;
    int64_t previous;
    int64_t next;
  };
  struct Candidate {
    int32_t rank;
    int64_t left;
    // The heap's top is the greatest.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };

  void start(std::string_view word);
  void propose(int64_t left);
  bool is_current(const Candidate& candidate) const;
  void merge(const Candidate& candidate);

  const BytePairs& pairs_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> candidates_;
};

}  // namespace lockstep::data
