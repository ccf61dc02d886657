# libdyndeploy_trt: the operators as plugins of TensorRT. The plugins need a C++ compiler only; the kernels inside,
# nvcc.
#
# The library is for TensorRT 10.3 and newer, 11, and TensorRT for RTX 1.7.1 and newer: none of them is linked, and none
# has to be there when it is built (abi/tensorrt.h).

set(TENSORRT_INCLUDE_DIR "" CACHE PATH
  "Where NvInferRuntime.h is; without it the declarations in abi/ are used, with it they are compared, too")

list(TRANSFORM OPERATORS APPEND /tensorrt.cpp OUTPUT_VARIABLE TENSORRT_PLUGINS)
add_library(tensorrt_plugins OBJECT ${TENSORRT_PLUGINS} dcnv2/deform_conv_tensorrt.cpp
  common/tensorrt/plugin_base.cpp common/tensorrt/plugin_fields.cpp common/tensorrt/plugin_log.cpp tensorrt.cpp)
target_include_directories(tensorrt_plugins PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_options(tensorrt_plugins PRIVATE -fno-exceptions)

# What a library of plugins has to be: nothing is visible but the two functions that TensorRT looks for. It stays
# loaded, since a registry may let go of it while plugins are still there.
function(export_plugins name)
  target_link_libraries(${name} PRIVATE ${CMAKE_DL_LIBS})
  target_link_options(${name} PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/tensorrt.map)
  set_target_properties(${name} PROPERTIES LINK_DEPENDS ${PROJECT_SOURCE_DIR}/tensorrt.map)
  if(NOT DYNDEPLOY_SANITIZE)
    target_link_options(${name} PRIVATE -static-libstdc++ -static-libgcc
      -Wl,--exclude-libs,ALL -Wl,-Bsymbolic -Wl,-z,defs -Wl,-z,nodelete)
  endif()
endfunction()

if(TENSORRT_INCLUDE_DIR)
  find_path(CUDA_RUNTIME_INCLUDE_DIR cuda_runtime_api.h REQUIRED
    HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS ${toolkit} /usr/local/cuda PATH_SUFFIXES include)
  target_include_directories(tensorrt_plugins SYSTEM PRIVATE ${TENSORRT_INCLUDE_DIR} ${CUDA_RUNTIME_INCLUDE_DIR})
  add_executable(tensorrt_conformance abi/tensorrt_conformance.cpp)
  target_include_directories(tensorrt_conformance PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_include_directories(tensorrt_conformance SYSTEM PRIVATE ${TENSORRT_INCLUDE_DIR} ${CUDA_RUNTIME_INCLUDE_DIR})
endif()

if(TARGET dyndeploy_cuda)
  # Kernels are compiled once, for both libraries.
  add_library(dyndeploy_trt SHARED dcnv2/join.cu $<TARGET_OBJECTS:tensorrt_plugins> $<TARGET_OBJECTS:dyndeploy_cuda>)
  target_include_directories(dyndeploy_trt PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_options(dyndeploy_trt PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${nvcc_flags}>")
  set_target_properties(dyndeploy_trt PROPERTIES CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden)
  target_link_directories(dyndeploy_trt PRIVATE ${toolkit_libraries})
  export_plugins(dyndeploy_trt)
  install(TARGETS dyndeploy_trt LIBRARY DESTINATION dyndeploy/lib COMPONENT plugins)
endif()

# libdyndeploy_trt_register: see tensorrt_register.cpp. It is linked to one TensorRT and finds it where the program has
# its own.
set(TENSORRT_LIBRARY "" CACHE FILEPATH
  "libnvinfer, libnvinfer_lean or libtensorrt_rtx, of the version of TENSORRT_INCLUDE_DIR")
if(TENSORRT_LIBRARY)
  if(NOT TENSORRT_INCLUDE_DIR)
    message(FATAL_ERROR "TENSORRT_LIBRARY needs TENSORRT_INCLUDE_DIR, too: the headers of the same version")
  endif()
  add_library(dyndeploy_trt_register SHARED tensorrt_register.cpp)
  target_include_directories(dyndeploy_trt_register SYSTEM PRIVATE ${TENSORRT_INCLUDE_DIR} ${CUDA_RUNTIME_INCLUDE_DIR})
  target_compile_options(dyndeploy_trt_register PRIVATE -fno-exceptions)
  target_link_libraries(dyndeploy_trt_register PRIVATE ${TENSORRT_LIBRARY} ${CMAKE_DL_LIBS})
  target_link_options(dyndeploy_trt_register PRIVATE -static-libstdc++ -static-libgcc
    -Wl,--exclude-libs,ALL -Wl,-z,defs -Wl,-z,nodelete)
  set_target_properties(dyndeploy_trt_register PROPERTIES BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "$ORIGIN")
  install(TARGETS dyndeploy_trt_register LIBRARY DESTINATION dyndeploy/lib COMPONENT plugins)
endif()
