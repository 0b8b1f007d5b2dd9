#include "lockstep/runtime/pager.h"

namespace lockstep {

ParameterPager::~ParameterPager() {
  for (ParameterPager** at = &context().pager; *at != nullptr; at = &(*at)->next_) {
    if (*at != this) continue;
    *at = next_;
    return;
  }
}

void ParameterPager::tell_all() {
  for (ParameterPager* pager = context().pager; pager != nullptr; pager = pager->next_) {
    pager->between_ops();
  }
}

}  // namespace lockstep
