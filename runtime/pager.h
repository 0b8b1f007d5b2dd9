#pragma once

#include "lockstep/runtime/context.h"

namespace lockstep {

// Whoever brings parameters' memory when it is looked at and takes it back later. Told whenever no
// op of its thread is running: a module's scope has closed, a node of a backward pass has run. A
// thread's pagers form a list that begins at context().pager.
class ParameterPager {
 public:
  ParameterPager() : next_(context().pager) { context().pager = this; }
  virtual ~ParameterPager();
  ParameterPager(const ParameterPager&) = delete;
  ParameterPager& operator=(const ParameterPager&) = delete;

  virtual void between_ops() = 0;

  // Tells all of this thread.
  static void tell_between_ops() {
    if (context().pager != nullptr) [[unlikely]]
      tell_all();
  }

 private:
  static void tell_all();

  ParameterPager* next_;
};

}  // namespace lockstep
