#include "lockstep/launcher/flags/values.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace lockstep::flags {
namespace {

template <class T>
std::optional<T> parse_number(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string show_number(double value) {
  char text[32];
  const auto result = std::to_chars(text, text + sizeof text, value);
  return std::string(text, result.ptr);
}

std::string check_range(const Flag& flag, const std::string& text, double value) {
  if (flag.minimum && !(value >= *flag.minimum)) {
    return "'" + text + "' is too small: at least " + show_number(*flag.minimum);
  }
  if (flag.maximum && !(value <= *flag.maximum)) {
    return "'" + text + "' is too large: at most " + show_number(*flag.maximum);
  }
  return "";
}

// A number and what follows it.
struct Quantity {
  double number;
  std::string unit;
};

std::optional<Quantity> parse_quantity(std::string_view text) {
  const size_t split = std::min(text.find_first_not_of("0123456789."), text.size());
  const auto number = parse_number<double>(text.substr(0, split));
  if (!number) return std::nullopt;
  return Quantity{*number, std::string(text.substr(split))};
}

}  // namespace

std::optional<std::chrono::milliseconds> parse_duration(std::string_view text) {
  struct Unit {
    std::string_view name;
    double milliseconds;
  };
  constexpr Unit kUnits[] = {{"ms", 1},   {"", 1e3},     {"s", 1e3},
                             {"m", 60e3}, {"h", 3600e3}, {"d", 86400e3}};
  const auto quantity = parse_quantity(text);
  if (!quantity) return std::nullopt;
  for (const Unit& unit : kUnits) {
    const double value = quantity->number * unit.milliseconds;
    if (unit.name == quantity->unit && value < 9e15) {
      return std::chrono::milliseconds(static_cast<int64_t>(std::llround(value)));
    }
  }
  return std::nullopt;
}

std::optional<int64_t> parse_size(std::string_view text) {
  const auto quantity = parse_quantity(text);
  if (!quantity) return std::nullopt;
  std::string unit = quantity->unit;
  for (const std::string_view suffix : {"iB", "B"}) {
    if (unit.ends_with(suffix)) {
      unit.resize(unit.size() - suffix.size());
      break;
    }
  }
  const std::string_view units = " KMGT";
  const size_t power = unit.empty() ? 0 : units.find(unit);
  if (unit.size() > 1 || unit == " " || power == std::string_view::npos) return std::nullopt;
  const double bytes = std::ldexp(quantity->number, static_cast<int>(10 * power));
  if (bytes >= 9e18) return std::nullopt;
  return static_cast<int64_t>(bytes);
}

namespace internal {

std::string read_value(const Flag& flag, const std::string& text, std::string& value) {
  const auto& choices = flag.choices;
  value = text;
  if (choices.empty() || std::find(choices.begin(), choices.end(), text) != choices.end()) {
    return "";
  }
  std::string problem = "'" + text + "' is none of ";
  for (const std::string& choice : choices)
    problem += choice + (&choice == &choices.back() ? "" : ", ");
  return problem + "; the nearest is " + nearest(text, choices);
}

std::string read_value(const Flag&, const std::string& text, std::filesystem::path& value) {
  value = text;
  return text.empty() ? "'' is no path" : "";
}

std::string read_value(const Flag& flag, const std::string& text, int64_t& value) {
  const auto number = parse_number<int64_t>(text);
  if (!number) return "'" + text + "' is not a whole number";
  value = *number;
  return check_range(flag, text, static_cast<double>(value));
}

std::string read_value(const Flag& flag, const std::string& text, int& value) {
  int64_t wide = 0;
  std::string problem = read_value(flag, text, wide);
  value = static_cast<int>(wide);
  return problem.empty() && value != wide ? "'" + text + "' is too large" : problem;
}

std::string read_value(const Flag& flag, const std::string& text, double& value) {
  const auto number = parse_number<double>(text);
  if (!number || !std::isfinite(*number)) return "'" + text + "' is not a number";
  value = *number;
  return check_range(flag, text, value);
}

std::string read_value(const Flag& flag, const std::string& text,
                       std::chrono::milliseconds& value) {
  const auto duration = parse_duration(text);
  if (!duration) return "'" + text + "' is not a duration (like 30s, 10m, 1.5h)";
  value = *duration;
  return check_range(flag, text, static_cast<double>(value.count()) / 1e3);
}

std::string show_value(const Flag&, const std::string& value) { return value; }
std::string show_value(const Flag&, const std::filesystem::path& value) { return value.string(); }
std::string show_value(const Flag&, int64_t value) { return std::to_string(value); }
std::string show_value(const Flag&, double value) { return show_number(value); }

std::string show_value(const Flag&, std::chrono::milliseconds value) {
  const int64_t count = value.count();
  if (count % 3600'000 == 0 && count > 0) return std::to_string(count / 3600'000) + "h";
  if (count % 60'000 == 0 && count > 0) return std::to_string(count / 60'000) + "m";
  if (count % 1000 == 0) return std::to_string(count / 1000) + "s";
  return std::to_string(count) + "ms";
}

}  // namespace internal
}  // namespace lockstep::flags
