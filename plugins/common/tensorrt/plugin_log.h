// Where a plugin says what is wrong: the logger of the TensorRT that loaded this library.
#pragma once

#include "abi/tensorrt.h"

namespace dyndeploy::tensorrt {

// From setLoggerFinder: the finder of the TensorRT that loads the library. Which version that is is found out here, by
// the library that the finder's code lies in.
void set_logger_finder(void* finder) noexcept;

// An error, with the node that it is about; to standard error where there is no logger.
void log_error(const char* op, const char* node, const char* message) noexcept;

}  // namespace dyndeploy::tensorrt
