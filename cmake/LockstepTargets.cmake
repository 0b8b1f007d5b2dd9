# Headers are included as lockstep/<layer>/<file>.h in the build tree and when installed alike: the
# build tree has a folder of links.
set(LOCKSTEP_INCLUDE_DIR ${PROJECT_BINARY_DIR}/include)
file(MAKE_DIRECTORY ${LOCKSTEP_INCLUDE_DIR}/lockstep)
foreach(layer runtime collectives autograd nn launcher)
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/${layer} ${LOCKSTEP_INCLUDE_DIR}/lockstep/${layer} SYMBOLIC)
endforeach()

set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)

# lockstep_layer(NAME SOURCES … LINK … PRIVATE_LINK …): one static library for one layer. LINK names
# the layers below it; a layer never links one above.
function(lockstep_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;PRIVATE_LINK" ${ARGN})
  add_library(lockstep_${name} STATIC ${ARG_SOURCES})
  add_library(lockstep::${name} ALIAS lockstep_${name})
  target_include_directories(lockstep_${name} PUBLIC $<BUILD_INTERFACE:${LOCKSTEP_INCLUDE_DIR}>)
  target_compile_options(lockstep_${name} PRIVATE ${LOCKSTEP_WARNINGS})
  target_link_libraries(lockstep_${name} PUBLIC ${ARG_LINK} PRIVATE ${ARG_PRIVATE_LINK})
endfunction()

# lockstep_program(NAME SOURCES … LINK …): an executable in build/bin.
function(lockstep_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_compile_options(${name} PRIVATE ${LOCKSTEP_WARNINGS})
  target_link_libraries(${name} PRIVATE ${ARG_LINK})
endfunction()
