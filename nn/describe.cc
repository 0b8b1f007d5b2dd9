#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <ostream>
#include <typeinfo>

#include "lockstep/nn/module.h"

namespace lockstep::nn {
namespace {

// The modules by the components of their names. A component that no module has (a vector) is a
// list.
struct Branch {
  std::string name;
  Module* module = nullptr;
  std::vector<Branch> children;

  Branch& child(const std::string& wanted) {
    for (Branch& existing : children) {
      if (existing.name == wanted) return existing;
    }
    children.push_back({wanted, nullptr, {}});
    return children.back();
  }
};

void print(const Branch& branch, const std::string& indent, std::string& out) {
  const std::string described = branch.module != nullptr ? branch.module->describe() : "";
  const bool leaf = branch.children.empty();
  const std::string deeper = indent + "  ";
  out += (branch.module != nullptr ? branch.module->type_name() : "ModuleList") + "(";
  if (!described.empty()) out += leaf ? described : "\n" + deeper + described;
  for (const Branch& child : branch.children) {
    out += "\n" + deeper + "(" + child.name + "): ";
    print(child, deeper, out);
  }
  out += leaf ? ")" : "\n" + indent + ")";
}

}  // namespace

std::string Module::type_name() const {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> demangled(
      abi::__cxa_demangle(typeid(*this).name(), nullptr, nullptr, &status), std::free);
  const std::string name = status == 0 ? demangled.get() : typeid(*this).name();
  const size_t arguments = std::min(name.find('<'), name.size());
  const size_t colon = name.rfind("::", arguments);
  return colon == std::string::npos ? name : name.substr(colon + 2);
}

std::string to_string(Module& module) {
  Branch root{"", &module, {}};
  for (const auto& [name, part] : module.named_modules()) {
    Branch* branch = &root;
    for (size_t begin = 0; begin < name.size();) {
      const size_t end = std::min(name.find('.', begin), name.size());
      branch = &branch->child(name.substr(begin, end - begin));
      begin = end + 1;
    }
    if (branch->module == nullptr) branch->module = part;
  }
  std::string out;
  print(root, "", out);
  return out;
}

std::ostream& operator<<(std::ostream& out, Module& module) { return out << to_string(module); }

}  // namespace lockstep::nn
