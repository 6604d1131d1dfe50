// How the emulation reports what hardware would leave undefined.
#pragma once

#include <stdexcept>
#include <string>

namespace dinat::emulation {

// Thrown inside a fiber or by the scheduler; ends the emulated launch.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws a Failure whose message is the parts, joined.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts);

namespace detail {

inline std::string text(const char* part) { return part; }
inline std::string text(const std::string& part) { return part; }
template <class Number>
std::string text(Number part) {
  return std::to_string(part);
}

}  // namespace detail

template <class... Parts>
void fail(const Parts&... parts) {
  throw Failure((detail::text(parts) + ...));
}

}  // namespace dinat::emulation
