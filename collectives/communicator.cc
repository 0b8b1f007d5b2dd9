#include "lockstep/collectives/communicator.h"

#include <functional>
#include <initializer_list>
#include <utility>

#include "lockstep/collectives/activity.h"
#include "lockstep/collectives/fingerprint.h"
#include "lockstep/collectives/flight_recorder.h"
#include "lockstep/collectives/work_state.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/context.h"

namespace lockstep {
namespace {

template <class... Pieces>
void require(bool condition, const WorkState& work, const Pieces&... pieces) {
  if (!condition) [[unlikely]] {
    fail({work.describe(), ": ", pieces...});
  }
}

void check_array(const WorkState& work, const char* name, const Array& array, Device device) {
  require(static_cast<bool>(array), work, name, " is an array without storage");
  require(array.device() == device || array.device() == Device(), work, name, " is on ",
          array.device().to_string(), ", expected ", device.to_string());
  require(array.contiguous(), work, name, " of shape ", array.shape(), " is not contiguous");
}

// `whole` has size() times the elements of `part`, which is either its slice rank() or elsewhere.
void check_slices(const WorkState& work, const char* whole_name, const Array& whole,
                  const char* part_name, const Array& part) {
  require(whole.dtype() == part.dtype(), work, part_name, " is ", part.dtype(), " but ", whole_name,
          " is ", whole.dtype());
  require(whole.elements() == part.elements() * work.size, work, whole_name, " has ",
          whole.elements(), " elements, expected ", work.size, " times the ", part.elements(),
          " of ", part_name);
  const auto* begin = static_cast<const char*>(whole.data());
  const auto* mine = static_cast<const char*>(part.data());
  const std::less<const char*> before;
  const bool apart = !before(mine, begin + whole.bytes()) || !before(begin, mine + part.bytes());
  require(apart || mine == begin + work.rank * part.bytes(), work, part_name, " overlaps ",
          whole_name, " but is not its slice ", work.rank);
}

void check_reduction(const WorkState& work) {
  require(work.dtype != DType::boolean, work, "bool values cannot be reduced");
  require(work.reduction != ReduceOp::mean || is_floating(work.dtype), work,
          "no mean of integers (", work.dtype, ")");
}

void check_arguments(const WorkState& work, Device device) {
  if (work.collective == Collective::barrier || work.collective == Collective::split) return;
  check_array(work, "input", work.input, device);
  check_array(work, "output", work.output, device);
  require(work.input.device() == work.output.device(), work, "input is on ",
          work.input.device().to_string(), ", output on ", work.output.device().to_string());
  switch (work.collective) {
    case Collective::all_reduce: check_reduction(work); break;
    case Collective::reduce_scatter:
      check_reduction(work);
      check_slices(work, "input", work.input, "output", work.output);
      break;
    case Collective::all_gather:
      check_slices(work, "output", work.output, "input", work.input);
      break;
    case Collective::broadcast:
      require(work.root >= 0 && work.root < work.size, work, "root is ", work.root,
              ", expected 0 to ", work.size - 1);
      break;
    default: break;
  }
}

std::shared_ptr<WorkState> make_work(Collective collective, const Array& input,
                                     const Array& output) {
  auto work = std::make_shared<WorkState>();
  work->collective = collective;
  work->input = input;
  work->output = output;
  const Array& part = collective == Collective::all_gather ? input : output;
  work->dtype = part.dtype();
  work->elements = part.elements();
  return work;
}

}  // namespace

Communicator::Communicator(int rank, int size)
    : rank_(rank),
      size_(size),
      recorder_(std::make_shared<FlightRecorder>()),
      activity_(std::make_shared<Activity>()) {}

Communicator::~Communicator() = default;

void Communicator::descend_from(const Communicator& parent, int color) {
  name_ = concat({parent.name_, "/", color});
  recorder_ = parent.recorder_;
  activity_ = parent.activity_;
  late_ = parent.late_;
  timeout_ = parent.timeout();
}

void Communicator::set_late_handler(LateHandler handler) {
  late_ = handler ? std::make_shared<const LateHandler>(std::move(handler)) : nullptr;
}

void Communicator::enlist(const std::shared_ptr<WorkState>& started, CollectiveOptions options) {
  WorkState& work = *started;
  work.sequence = sequence_ + 1;
  work.what = options.what;
  work.bucket = options.bucket;
  work.ready = std::move(options.ready);
  work.rank = rank_;
  work.size = size_;
  work.timeout = timeout_;
  work.communicator = name_;
  Activity::Moment moment = activity_->now();
  work.step = moment.step;
  work.phase = std::move(moment.phase);
  work.late = late_;
  check_arguments(work, device());  // one that is refused has no number
  ++sequence_;
  history_ = mixed(history_, work.fingerprint());
  recorder_->add(started);
}

Work Communicator::launch(std::shared_ptr<WorkState> work, CollectiveOptions options) {
  if (context().capture != nullptr) throw NotCapturable("a collective cannot be captured");
  enlist(work, options);
  if (work->output) work->output.storage()->bump_version();
  start(work);
  return Work(std::move(work));
}

Work Communicator::all_reduce(const Array& values, ReduceOp reduction, CollectiveOptions options) {
  auto work = make_work(Collective::all_reduce, values, values);
  work->reduction = reduction;
  return launch(std::move(work), options);
}

Work Communicator::reduce_scatter(const Array& input, const Array& output, ReduceOp reduction,
                                  CollectiveOptions options) {
  auto work = make_work(Collective::reduce_scatter, input, output);
  work->reduction = reduction;
  return launch(std::move(work), options);
}

Work Communicator::all_gather(const Array& input, const Array& output, CollectiveOptions options) {
  return launch(make_work(Collective::all_gather, input, output), options);
}

Work Communicator::broadcast(const Array& values, int root, CollectiveOptions options) {
  auto work = make_work(Collective::broadcast, values, values);
  work->root = root;
  return launch(std::move(work), options);
}

Work Communicator::barrier(CollectiveOptions options) {
  return launch(std::make_shared<WorkState>(), options);
}

Array Communicator::allocate_bucket(int64_t elements, DType dtype) {
  return Array::empty({elements}, dtype, device());
}

}  // namespace lockstep
