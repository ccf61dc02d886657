# cmake -DNM=nm -DISA=avx2 -P symbols.cmake -- kernel.o …
#
# Of weak symbols the linker keeps one, whoever defined it. If a kernel's object defined std::min or an inline function
# of common/, the one with AVX-512 instructions could be kept for the whole library, and a CPU without them would stop
# there. So the weak symbols of these objects have to bear the name of their instruction set.

string(LENGTH ${ISA} length)
set(own "${length}${ISA}")
set(objects 0)
set(listing FALSE)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  set(object "${CMAKE_ARGV${i}}")
  if(listing)
    math(EXPR objects "${objects} + 1")
    execute_process(COMMAND ${NM} --defined-only ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
    string(REGEX MATCHALL "[^\n]* [VWuvw] [^\n]*" weak "${symbols}")
    foreach(line IN LISTS weak)
      string(REGEX REPLACE ".* " "" symbol "${line}")
      if(NOT symbol MATCHES "${own}")
        message(SEND_ERROR "${object}: weak ${symbol}")
      endif()
    endforeach()
  elseif(object STREQUAL "--")
    set(listing TRUE)
  endif()
endforeach()
if(objects EQUAL 0)
  message(FATAL_ERROR "no objects given")
endif()
