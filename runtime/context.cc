#include "lockstep/runtime/context.h"

namespace lockstep {

Context& context() {
  thread_local Context current;
  return current;
}

}  // namespace lockstep
