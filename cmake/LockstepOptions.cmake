set(LOCKSTEP_MPI AUTO CACHE STRING "MPI transport: AUTO, ON or OFF")
set_property(CACHE LOCKSTEP_MPI PROPERTY STRINGS AUTO ON OFF)
set(LOCKSTEP_CUDA AUTO CACHE STRING "CUDA and NCCL: ON, OFF, or AUTO: where there is a GPU and what it takes")
set_property(CACHE LOCKSTEP_CUDA PROPERTY STRINGS AUTO ON OFF)
set(LOCKSTEP_CUDA_ARCHITECTURES "" CACHE STRING
    "compute capabilities to compile kernels for, as CMAKE_CUDA_ARCHITECTURES; empty: 8.0 and 9.0, and PTX for later ones")
set(LOCKSTEP_SANITIZER "" CACHE STRING "address or thread: build everything with that sanitizer")
option(LOCKSTEP_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(LOCKSTEP_INSTALL "Install Lockstep as a library" ${PROJECT_IS_TOP_LEVEL})

# ThreadSanitizer does not see into oneDNN.
option(LOCKSTEP_PLAIN_KERNELS "CPU kernels of our own loops, without oneDNN: slower" OFF)
if(LOCKSTEP_SANITIZER STREQUAL "thread")
  set(LOCKSTEP_PLAIN_KERNELS ON)
endif()

find_program(LOCKSTEP_CCACHE ccache)
if(LOCKSTEP_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # What ccache needs to know what a precompiled header holds.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${LOCKSTEP_CCACHE})
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
endif()

# GCC 12 warns of overlap in std::string concatenation where there is none (-Wrestrict).
set(LOCKSTEP_WARNINGS -Wall -Wextra -Wno-missing-field-initializers -Wno-restrict)
set(LOCKSTEP_SANITIZER_FLAGS)
if(LOCKSTEP_SANITIZER STREQUAL "address")
  set(LOCKSTEP_SANITIZER_FLAGS -fsanitize=address,undefined,float-cast-overflow
      -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
elseif(LOCKSTEP_SANITIZER STREQUAL "thread")
  set(LOCKSTEP_SANITIZER_FLAGS -fsanitize=thread -fno-omit-frame-pointer)
elseif(LOCKSTEP_SANITIZER)
  message(FATAL_ERROR "LOCKSTEP_SANITIZER is '${LOCKSTEP_SANITIZER}': expected address or thread")
endif()
add_compile_options(${LOCKSTEP_SANITIZER_FLAGS})
add_link_options(${LOCKSTEP_SANITIZER_FLAGS})

# For code that runs once a step at most, and for tests: it need not be fast, and compiles in two
# thirds of the time.
set(LOCKSTEP_QUICK -O1)
# AddressSanitizer's and UBSan's checks take longer to optimise than to run: under them nothing is
# optimised but what loops over elements, LOCKSTEP_LOOPS. ThreadSanitizer's gain little.
set(LOCKSTEP_LOOPS)
if(LOCKSTEP_SANITIZER STREQUAL "address")
  set(LOCKSTEP_QUICK -O0)
  set(LOCKSTEP_LOOPS -O1)
endif()
