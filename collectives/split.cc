#include "lockstep/collectives/split.h"

namespace lockstep {

SplitPlace agree_on_split(Communicator& communicator, int color, int key) {
  LOCKSTEP_CHECK(color >= 0, "split on rank ", communicator.rank(), ": color is ", color,
                 ", expected 0 or more");
  const Array mine = Array::empty({2}, DType::i32);
  mine.data<int32_t>()[0] = color;
  mine.data<int32_t>()[1] = key;
  const Array all = Array::empty({communicator.size(), 2}, DType::i32);
  communicator.all_gather(mine, all, {.what = "split"}).wait();

  SplitPlace place{.rank = 0, .size = 0};
  for (int rank = 0; rank < communicator.size(); ++rank) {
    const int32_t* theirs = all.data<int32_t>() + 2 * rank;
    if (theirs[0] != color) continue;
    ++place.size;
    if (theirs[1] < key || (theirs[1] == key && rank < communicator.rank())) ++place.rank;
  }
  return place;
}

}  // namespace lockstep
