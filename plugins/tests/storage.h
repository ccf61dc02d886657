// Element types as memory holds them, by code of its own: what kernels convert is compared with this.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "common/api.h"

namespace dyndeploy::test {

// The 16-bit types: a sign, exponent bits, fraction bits.
struct Half {
  int exponent_bits, fraction_bits;
};
inline constexpr Half kFloat16{5, 10}, kBfloat16{8, 7};

inline double half_value(Half type, uint16_t bits) {
  const int fraction = bits & ((1 << type.fraction_bits) - 1);
  const int exponent = (bits & 0x7fff) >> type.fraction_bits, most = (1 << type.exponent_bits) - 1;
  const int bias = most / 2 + type.fraction_bits;
  double value = std::ldexp(fraction + (exponent ? 1 << type.fraction_bits : 0), (exponent ? exponent : 1) - bias);
  if (exponent == most) value = fraction ? std::numeric_limits<double>::quiet_NaN() : HUGE_VAL;
  return bits >> 15 ? -value : value;
}

// The nearest one, of equally near ones the even one. `value` is not a NaN.
inline uint16_t half_bits(Half type, double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::fabs(value);
  // The bits of positive numbers are ordered like the numbers.
  const int infinity = ((1 << type.exponent_bits) - 1) << type.fraction_bits;
  int low = 0, high = infinity;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (half_value(type, static_cast<uint16_t>(middle)) <= size ? low : high) = middle;
  }
  // To round, infinity stands where the next number would.
  const double below = half_value(type, static_cast<uint16_t>(low));
  const double above = high < infinity ? half_value(type, static_cast<uint16_t>(high))
                                       : 2 * below - half_value(type, static_cast<uint16_t>(low - 1));
  const double middle = below + (above - below) / 2;
  const int nearest = size < middle || (size == middle && low % 2 == 0) ? low : high;
  return static_cast<uint16_t>(sign | nearest);
}

inline constexpr int32_t kDtypes[] = {DYNDEPLOY_FLOAT32, DYNDEPLOY_FLOAT16, DYNDEPLOY_BFLOAT16};

inline int64_t element_bytes(int32_t dtype) { return dtype == DYNDEPLOY_FLOAT32 ? 4 : 2; }

inline const char* dtype_name(int32_t dtype) {
  return dtype == DYNDEPLOY_FLOAT32 ? "float32" : dtype == DYNDEPLOY_FLOAT16 ? "float16" : "bfloat16";
}

// What rounding to this type may do: relative to the number, and, below the normal numbers, in all.
inline double rounding_unit(int32_t dtype) {
  return dtype == DYNDEPLOY_FLOAT32 ? 0x1p-24 : dtype == DYNDEPLOY_FLOAT16 ? 0x1p-11 : 0x1p-8;
}
inline double smallest(int32_t dtype) { return dtype == DYNDEPLOY_FLOAT16 ? 0x1p-24 : 0x1p-126; }

inline double load_element(int32_t dtype, const void* from) {
  if (dtype == DYNDEPLOY_FLOAT32) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return half_value(dtype == DYNDEPLOY_FLOAT16 ? kFloat16 : kBfloat16, bits);
}

inline void store_element(int32_t dtype, void* to, double value) {
  if (dtype == DYNDEPLOY_FLOAT32) {
    const float single = static_cast<float>(value);
    std::memcpy(to, &single, sizeof single);
  } else {
    const uint16_t bits =
        std::isnan(value) ? 0x7fff : half_bits(dtype == DYNDEPLOY_FLOAT16 ? kFloat16 : kBfloat16, value);
    std::memcpy(to, &bits, sizeof bits);
  }
}

}  // namespace dyndeploy::test
