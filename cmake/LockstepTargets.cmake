include(GNUInstallDirs)

set(LOCKSTEP_LAYERS runtime collectives autograd nn launcher)

# Headers are included as lockstep/<layer>/<file>.h in the build tree and when installed alike: the
# build tree has a folder of links. lockstep/lockstep.h includes what users need of all layers.
set(LOCKSTEP_INCLUDE_DIR ${PROJECT_BINARY_DIR}/include)
file(MAKE_DIRECTORY ${LOCKSTEP_INCLUDE_DIR}/lockstep)
foreach(layer IN LISTS LOCKSTEP_LAYERS)
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/${layer} ${LOCKSTEP_INCLUDE_DIR}/lockstep/${layer} SYMBOLIC)
endforeach()
file(CREATE_LINK ${PROJECT_SOURCE_DIR}/launcher/lockstep.h ${LOCKSTEP_INCLUDE_DIR}/lockstep/lockstep.h
     SYMBOLIC)

set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
# Libraries outside the system's folders are found by what is installed, too.
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)

# lockstep_use_headers(TARGET LIBRARY…): header-only libraries, which users of an installed TARGET
# need not have.
function(lockstep_use_headers target)
  foreach(library IN LISTS ARGN)
    target_include_directories(${target} SYSTEM PRIVATE
      $<TARGET_PROPERTY:${library},INTERFACE_INCLUDE_DIRECTORIES>)
  endforeach()
endfunction()

# lockstep_layer(NAME SOURCES … LINK … PRIVATE_LINK … USE_HEADERS …): one static library for one
# layer. LINK names the layers below it; a layer never links one above.
function(lockstep_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;PRIVATE_LINK;USE_HEADERS" ${ARGN})
  add_library(lockstep_${name} STATIC ${ARG_SOURCES})
  add_library(lockstep::${name} ALIAS lockstep_${name})
  set_target_properties(lockstep_${name} PROPERTIES EXPORT_NAME ${name})
  target_compile_features(lockstep_${name} PUBLIC cxx_std_20)
  target_include_directories(lockstep_${name} PUBLIC $<BUILD_INTERFACE:${LOCKSTEP_INCLUDE_DIR}>)
  target_compile_options(lockstep_${name} PRIVATE ${LOCKSTEP_WARNINGS})
  target_link_libraries(lockstep_${name} PUBLIC ${ARG_LINK} PRIVATE ${ARG_PRIVATE_LINK})
  lockstep_use_headers(lockstep_${name} ${ARG_USE_HEADERS})
endfunction()

# lockstep_precompile(TARGET HEADERS…): what most of a layer's sources include, whose reading takes
# longer than compiling the rest. Only for sanitizers: elsewhere an include that is missing is an error,
# and GCC 12 takes what is precompiled of std::string for ours, and warns of it.
function(lockstep_precompile target)
  if(LOCKSTEP_SANITIZER)
    target_precompile_headers(${target} PRIVATE ${ARGN})
  endif()
endfunction()

# lockstep_program(NAME SOURCES … LINK …): an executable in build/bin.
function(lockstep_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_compile_options(${name} PRIVATE ${LOCKSTEP_WARNINGS})
  target_link_libraries(${name} PRIVATE ${ARG_LINK})
endfunction()
