#include "lockstep/runtime/pager.h"

namespace lockstep {

ParameterPager::~ParameterPager() {
  for (ParameterPager** at = &context().pager; *at != nullptr; at = &(*at)->next_) {
    if (*at != this) continue;
    *at = next_;
    return;
  }
}

}  // namespace lockstep
