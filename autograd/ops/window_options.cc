#include "lockstep/autograd/ops/window_options.h"

namespace lockstep::internal {

namespace {

std::string listed(const int64_t* values, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += (i > 0 ? "," : "[") + std::to_string(values[i]);
  return text + "]";
}

void fill_in(const char* name, const char* what, const std::vector<int64_t>& list, int spatial,
             int64_t* entries) {
  const auto count = static_cast<int>(list.size());
  LOCKSTEP_CHECK(count == 1 || count == spatial, name, ": ", what, " has ", count,
                 " entries, expected 1 or ", spatial);
  for (int i = 0; i < spatial; ++i) entries[i] = list[count == 1 ? 0 : static_cast<size_t>(i)];
}

}  // namespace

WindowOptions window_options(const char* name, int spatial, const WindowArguments& arguments) {
  WindowOptions options{.spatial = spatial};
  if (!arguments.kernel.empty()) {
    fill_in(name, "kernel_size", arguments.kernel, spatial, options.kernel);
  }
  fill_in(name, "stride", arguments.stride, spatial, options.stride);
  fill_in(name, "padding", arguments.padding, spatial, options.padding);
  fill_in(name, "dilation", arguments.dilation, spatial, options.dilation);
  return options;
}

std::string describe(const WindowOptions& options) {
  if (context().tracer == nullptr) return {};
  return "kernel=" + listed(options.kernel, options.spatial) +
         " stride=" + listed(options.stride, options.spatial) +
         " padding=" + listed(options.padding, options.spatial) +
         " dilation=" + listed(options.dilation, options.spatial) +
         " groups=" + std::to_string(options.groups);
}

}  // namespace lockstep::internal
