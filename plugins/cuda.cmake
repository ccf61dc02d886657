# libdyndeploy_cuda: every operator's cuda.cu and cuda_backward.cu, by nvcc. Without an nvcc it is left out, and a line says so.
#
# An nvcc is looked for in CUDACXX, in PATH, in CUDA_HOME, in /usr/local/cuda, and among the Python packages of the
# environment that installs (nvidia-cuda-nvcc with nvidia-cuda-runtime, nvidia-cuda-crt, nvidia-nvvm, nvidia-cuda-cccl).

set(DYNDEPLOY_CUDA AUTO CACHE STRING "Kernels for GPUs: AUTO (where there is an nvcc), ON (or fail) or OFF")
# From Ampere on. The first and the last one also as PTX, which the driver compiles for the GPUs between them that are not here,
# and for those of the future.
set(DYNDEPLOY_CUDA_ARCHITECTURES "80;86-real;89-real;90-real;100-real;120" CACHE STRING
  "GPUs to compile for, as in CMAKE_CUDA_ARCHITECTURES; one of them makes a development build quick")

set(DYNDEPLOY_NVCC_FLAGS -std=c++20 -O3 --expt-relaxed-constexpr)

function(find_nvcc result)
  set(python_packages "")
  foreach(python IN ITEMS "${Python_EXECUTABLE}" "${Python3_EXECUTABLE}")
    if(python)
      get_filename_component(bin "${python}" DIRECTORY)
      file(GLOB found "${bin}/../lib/python3.*/site-packages/nvidia/cu*/bin")
      list(APPEND python_packages ${found})
    endif()
  endforeach()
  find_program(DYNDEPLOY_NVCC nvcc
    HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda ${python_packages} PATH_SUFFIXES bin)
  if(DEFINED ENV{CUDACXX})
    set(DYNDEPLOY_NVCC "$ENV{CUDACXX}")
  endif()
  set(${result} "${DYNDEPLOY_NVCC}" PARENT_SCOPE)
endfunction()

if(NOT DYNDEPLOY_CUDA)
  return()
endif()
find_nvcc(nvcc)
if(NOT nvcc)
  if(NOT DYNDEPLOY_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "DYNDEPLOY_CUDA is ON, but there is no nvcc. Install the CUDA toolkit (12.8 or newer), or: "
      "pip install nvidia-cuda-{nvcc,runtime,crt,cccl} nvidia-nvvm")
  endif()
  message(STATUS "No nvcc: without the CUDA kernels")
  return()
endif()

# nvcc looks for the runtime in lib64; the Python packages have it in lib.
get_filename_component(toolkit "${nvcc}" DIRECTORY)
get_filename_component(toolkit "${toolkit}" DIRECTORY)
set(toolkit_libraries "")
if(EXISTS "${toolkit}/lib/libcudart_static.a" AND NOT EXISTS "${toolkit}/lib64")
  set(toolkit_libraries "${toolkit}/lib")
  set(ENV{NVCC_APPEND_FLAGS} "$ENV{NVCC_APPEND_FLAGS} -L${toolkit_libraries}")
endif()
set(CMAKE_CUDA_COMPILER "${nvcc}")
set(CMAKE_CUDA_ARCHITECTURES ${DYNDEPLOY_CUDA_ARCHITECTURES})
enable_language(CUDA)
# CMake 3.25 does not know that nvcc has C++20; a newer one gives the flag itself.
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED OFF)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(nvcc_flags ${DYNDEPLOY_NVCC_FLAGS})
if(CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  list(REMOVE_ITEM nvcc_flags -std=c++20)
endif()

list(TRANSFORM OPERATORS APPEND /cuda.cu OUTPUT_VARIABLE cuda_kernels)
list(TRANSFORM CUDA_GRADIENTS APPEND /cuda_backward.cu OUTPUT_VARIABLE cuda_gradients)
list(APPEND cuda_kernels drconv/cuda_mix.cu)
list(TRANSFORM OPERATORS APPEND /problem.cpp OUTPUT_VARIABLE cuda_problems)
list(APPEND cuda_problems drconv/problem_mix.cpp)
add_library(dyndeploy_cuda SHARED ${cuda_kernels} ${cuda_gradients} ${cuda_problems}
  common/cuda/architectures.cpp common/problem.cpp common/status.cpp)
list(JOIN DYNDEPLOY_CUDA_ARCHITECTURES " " architectures)
set_source_files_properties(common/cuda/architectures.cpp PROPERTIES
  COMPILE_DEFINITIONS "DYNDEPLOY_CUDA_ARCHITECTURES=\"${architectures}\"")
target_include_directories(dyndeploy_cuda PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_options(dyndeploy_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${nvcc_flags}>")
set_target_properties(dyndeploy_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden)
target_link_directories(dyndeploy_cuda PRIVATE ${toolkit_libraries})
target_link_options(dyndeploy_cuda PRIVATE -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL -Wl,-Bsymbolic
  -Wl,-z,nodelete)
install(TARGETS dyndeploy_cuda LIBRARY DESTINATION dyndeploy/lib COMPONENT plugins)
