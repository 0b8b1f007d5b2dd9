#include "conformance/misuse.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <span>

#include "conformance/layout.h"
#include "conformance/replay.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::conformance {
namespace {

constexpr DType kDTypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                             DType::i64, DType::i32, DType::u8,   DType::boolean};
constexpr int64_t kHuge = int64_t{1} << 40;
constexpr unsigned kSeconds = 60;
constexpr unsigned kDeviceSeconds = 600;
constexpr uint64_t kMemoryBytes = uint64_t{4} << 30;
constexpr uint64_t kDeviceAddressBytes = uint64_t{64} << 30;

// One wrong way to call: what is different, and how.
struct Wrong {
  std::string what;
  std::function<void(Tensors&, Json&)> change;
};

// What the child says, read by its parent after it died.
struct Page {
  size_t done;  // cases
  int calls;    // of this one
  bool failed;
  char text[4000];

  void say(const std::string& line) { std::snprintf(text, sizeof(text), "%s", line.c_str()); }
};

Tensor remade(const Tensor& like, const Array& value) {
  return like.requires_grad() ? Tensor::variable(value) : Tensor(value);
}

Array ones(const Shape& shape, const Tensor& like) {
  return Array::full(shape, 1, like.dtype(), context().device);
}

// Other shapes for one tensor.
void add_shapes(const std::string& name, const Shape& shape, std::vector<Wrong>& wrongs) {
  std::vector<Shape> shapes = {{}, {0}, {1}, {0, 3}, {2, 0, 3}, {3, 7}, {2, 1, 3, 1, 2}};
  shapes.push_back(Shape::filled(kMaxRank, 1));
  shapes.push_back(Shape::filled(shape.rank(), 0));
  for (int d = 0; d < shape.rank(); ++d) {
    for (const int64_t size : {shape[d] + 1, shape[d] - 1, int64_t{0}, int64_t{1}}) {
      Shape other = shape;
      other[d] = size;
      if (size >= 0 && size != shape[d]) shapes.push_back(other);
    }
    Shape fewer = shape;
    fewer.erase(d);
    shapes.push_back(fewer);
  }
  if (shape.rank() < kMaxRank) {
    Shape more = shape;
    more.insert(0, 2);
    shapes.push_back(more);
  }
  for (const Shape& other : shapes) {
    wrongs.push_back({name + " of shape " + other.to_string(), [name, other](Tensors& t, Json&) {
                        t[name] = remade(t[name], ones(other, t[name]));
                      }});
  }
}

// Other dtypes and values.
void add_values(const std::string& name, DType dtype, std::vector<Wrong>& wrongs) {
  wrongs.push_back({name + " empty", [name](Tensors& t, Json&) { t[name] = Tensor(); }});
  for (const DType other : kDTypes) {
    if (other == dtype) continue;
    wrongs.push_back(
        {name + " of dtype " + std::string(name_of(other)), [name, other](Tensors& t, Json&) {
           t[name] = Tensor(kernels::cast(t[name].value(), other));
         }});
  }
  std::vector<double> values = {-1, 1e9, -9e15, 0};
  if (is_floating(dtype)) values.push_back(std::numeric_limits<double>::quiet_NaN());
  if (dtype == DType::boolean) values = {0, 1};
  for (const double value : values) {
    wrongs.push_back(
        {name + " filled with " + std::to_string(value), [name, value](Tensors& t, Json&) {
           const Tensor before = t[name];
           t[name] =
               remade(before, Array::full(before.shape(), value, before.dtype(), before.device()));
         }});
  }
}

void add_attribute(const std::string& name, const Json& value, std::vector<Wrong>& wrongs) {
  const auto with = [&](const Json& other) {
    if (other == value) return;
    wrongs.push_back({name + " = " + other.dump(),
                      [name, other](Tensors&, Json& attributes) { attributes[name] = other; }});
  };
  const std::vector<int64_t> integers = {0,
                                         1,
                                         -1,
                                         -9,
                                         7,
                                         kHuge,
                                         std::numeric_limits<int64_t>::max(),
                                         std::numeric_limits<int64_t>::min()};
  if (value.is_array()) {
    with(Json::array());
    Json longer = value, shorter = value;
    longer.push_back(1);
    with(longer);
    if (!shorter.empty()) {
      shorter.erase(0);
      with(shorter);
    }
    for (size_t i = 0; i < value.size(); ++i) {
      for (const int64_t other : integers) {
        Json changed = value;
        changed[i] = other;
        with(changed);
      }
    }
  } else if (value.is_number_integer() || value.is_null()) {
    for (const int64_t other : integers) with(other);
    with({0, 1});
    with(Json::array({0, 0}));
    with(nullptr);
  } else if (value.is_number_float()) {
    for (const double other : {0.0, -1.0, 1e300}) with(other);
    for (const char* other : {"inf", "-inf", "nan"}) with(other);
  } else if (value.is_boolean()) {
    with(!value.get<bool>());
  } else if (value.is_string()) {
    for (const char* other : {"", "none", "mean", ",,->...", "abc->cba", "i...,j...", "-inf"}) {
      with(other);
    }
  }
}

// All tensors at once.
void add_together(std::vector<Wrong>& wrongs) {
  wrongs.push_back({"all empty", [](Tensors& t, Json&) {
                      for (auto& [name, tensor] : t) tensor = Tensor();
                    }});
  for (const Shape& shape : {Shape{}, Shape{0}, Shape{0, 0}, Shape{0, 2, 0}, Shape{1},
                             Shape::filled(kMaxRank, 1), Shape::filled(kMaxRank, 0)}) {
    wrongs.push_back({"all of shape " + shape.to_string(), [shape](Tensors& t, Json&) {
                        for (auto& [name, tensor] : t) tensor = remade(tensor, ones(shape, tensor));
                      }});
  }
  for (const DType dtype : kDTypes) {
    wrongs.push_back({"all of dtype " + std::string(name_of(dtype)), [dtype](Tensors& t, Json&) {
                        for (auto& [name, tensor] : t) {
                          const Array cast = kernels::cast(tensor.value(), dtype);
                          tensor = is_floating(dtype) && tensor.requires_grad()
                                       ? Tensor::variable(cast)
                                       : Tensor(cast);
                        }
                      }});
  }
}

std::vector<Wrong> wrongs_of(const Case& recorded) {
  std::vector<Wrong> wrongs;
  for (const auto& [name, array] : recorded.with_prefix("in.")) {
    add_shapes(name, array.shape(), wrongs);
    add_values(name, array.dtype(), wrongs);
    wrongs.push_back({name + " missing", [name = name](Tensors& t, Json&) { t.erase(name); }});
  }
  for (const auto& [name, value] : recorded.attributes.items()) add_attribute(name, value, wrongs);
  add_together(wrongs);
  return wrongs;
}

void call(const Case& recorded, const Op& op, const Wrong& wrong) {
  Tensors inputs = inputs_of(recorded, dense_copy);
  Json attributes = recorded.attributes;
  wrong.change(inputs, attributes);
  const std::vector<Tensor> outputs = op(Arguments(inputs, attributes));
  Tensor total;
  for (const Tensor& output : outputs) {
    if (!output || !is_floating(output.dtype())) continue;
    output.to_vector<double>();
    if (!output.requires_grad()) continue;
    const Tensor part = sum(to(output, DType::f64));
    total = total ? total + part : part;
  }
  if (total) total.backward();
}

// From here on: what asks for too much is refused, and what never ends is ended. (Sanitizers have
// reserved address space already, and so have devices, which need more later.)
void limit_resources() {
  const Device device = context().device;
  const bool on_host = device == Device();
  if (!on_host) backend_of(device).set_limit(static_cast<int64_t>(kMemoryBytes));
  uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const uint64_t limit = pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) +
                         (on_host ? kMemoryBytes : kDeviceAddressBytes);
  const rlimit address_space = {limit, limit};
  ::setrlimit(RLIMIT_AS, &address_space);
}

// In the child: every call in turn, the current one told on the page.
void call_all(const Case& recorded, const Op& op, Page& page) {
  for (const Wrong& wrong : wrongs_of(recorded)) {
    page.say(wrong.what);
    ++page.calls;
    try {
      call(recorded, op, wrong);
    } catch (const Error&) {
    } catch (const std::exception& error) {
      page.say(wrong.what + ": escaped, and is no lockstep::Error: " + error.what());
      page.failed = true;
      return;
    }
  }
}

// The child: up to `count` cases, until one fails.
[[noreturn]] void call_cases(std::span<const std::filesystem::path> files, const OpTable& table,
                             Device device, Page& page) {
  try {
    context().device = device;
    backend_of(device);
    limit_resources();
    for (const auto& file : files) {
      page.calls = 0;
      const Case recorded = read_case(file);
      ::alarm(device == Device() ? kSeconds : kDeviceSeconds);
      call_all(recorded, table.at(recorded.name), page);
      if (page.calls == 0) {
        page.say("nothing was called");
        page.failed = true;
      }
      if (page.failed) break;
      ++page.done;
    }
  } catch (const std::exception& error) {
    page.say(error.what());
    page.failed = true;
  }
  ::_exit(page.failed ? 1 : 0);
}

// What is wrong with the case at which a child has ended too early.
std::string verdict(int status, const Page& page) {
  if (WIFSIGNALED(status)) {
    return concat({page.text, ": ended by signal ", WTERMSIG(status)});
  }
  if (page.failed) return page.text;
  return concat({page.text, ": the process ended with ", WEXITSTATUS(status)});
}

}  // namespace

void check_misuse(const std::vector<std::filesystem::path>& files, const OpTable& table,
                  Device device, const std::function<void(size_t file, Failures)>& report) {
  void* memory =
      ::mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  LOCKSTEP_CHECK(memory != MAP_FAILED, "mmap: ", std::strerror(errno));
  // A device is slow to open, so one child goes through all cases.
  const size_t most = device == Device() ? 1 : files.size();
  for (size_t next = 0; next < files.size();) {
    Page& page = *new (memory) Page{};
    std::fflush(stdout);
    const pid_t child = ::fork();
    LOCKSTEP_CHECK(child >= 0, "fork: ", std::strerror(errno));
    const size_t given = std::min(most, files.size() - next);
    if (child == 0) call_cases(std::span(files).subspan(next, given), table, device, page);
    int status = 0;
    ::waitpid(child, &status, 0);
    for (size_t i = 0; i < page.done; ++i) report(next++, {});
    if (page.done == given) continue;
    const std::string file = files[next].string();
    report(next++, {file + ": " + verdict(status, page)});
  }
  ::munmap(memory, sizeof(Page));
}

}  // namespace lockstep::conformance
