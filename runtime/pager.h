#pragma once

#include "lockstep/runtime/context.h"

namespace lockstep {

// Whoever brings parameters' memory when it is looked at and takes it back later. Told when no op
// of its thread is running: where a module's scope opens or closes, after each node of a backward
// pass. So what is read in between, without a module's call, stays until then. A thread's pagers
// form a list that begins at context().pager.
class ParameterPager {
 public:
  ParameterPager() : next_(context().pager) { context().pager = this; }
  virtual ~ParameterPager();
  ParameterPager(const ParameterPager&) = delete;
  ParameterPager& operator=(const ParameterPager&) = delete;

  // Memory that is not expected to be looked at again soon may go.
  virtual void take_back() noexcept = 0;
  // What is expected to be looked at soon may be brought.
  virtual void bring_ahead() = 0;

  // These tell all of this thread.
  static void tell_to_take_back() noexcept {
    for (ParameterPager* pager = context().pager; pager != nullptr; pager = pager->next_) {
      pager->take_back();
    }
  }
  static void tell_to_bring_ahead() {
    for (ParameterPager* pager = context().pager; pager != nullptr; pager = pager->next_) {
      pager->bring_ahead();
    }
  }

 private:
  ParameterPager* next_;
};

}  // namespace lockstep
