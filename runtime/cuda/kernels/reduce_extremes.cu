#include "lockstep/runtime/cuda/kernels/reduce_launch_definition.h"

namespace lockstep::cuda {

template void launch_reduction<JoinMaximum>(const Reduction<float>&, const InnerSizes&, Queue&);
template void launch_reduction<JoinMaximum>(const Reduction<double>&, const InnerSizes&, Queue&);
template void launch_reduction<JoinMaximum>(const Reduction<int64_t>&, const InnerSizes&, Queue&);
template void launch_reduction<JoinMinimum>(const Reduction<float>&, const InnerSizes&, Queue&);
template void launch_reduction<JoinMinimum>(const Reduction<double>&, const InnerSizes&, Queue&);
template void launch_reduction<JoinMinimum>(const Reduction<int64_t>&, const InnerSizes&, Queue&);

}  // namespace lockstep::cuda
