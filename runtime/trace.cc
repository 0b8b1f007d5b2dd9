#include "lockstep/runtime/trace.h"

#include "lockstep/runtime/pager.h"

namespace lockstep {

ScopeFrame::ScopeFrame(std::string_view name) : name_(name), outer_(context().scope) {
  ParameterPager::tell_to_take_back();
  ParameterPager::tell_to_bring_ahead();
  context().scope = this;
  if (Tracer* tracer = context().tracer) tracer->scope_opened(name_);
}

ScopeFrame::~ScopeFrame() {
  if (Tracer* tracer = context().tracer) tracer->scope_closed(name_);
  context().scope = outer_;
  ParameterPager::tell_to_take_back();
}

std::string current_scope() {
  std::string path;
  for (const ScopeFrame* frame = context().scope; frame != nullptr; frame = frame->outer()) {
    if (frame->name().empty()) continue;
    path = std::string(frame->name()) + (path.empty() ? "" : " / ") + path;
  }
  return path;
}

}  // namespace lockstep
