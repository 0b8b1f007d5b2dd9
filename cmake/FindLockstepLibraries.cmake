# Libraries that come without a CMake package, or whose package asks for more than is used here
# (oneDNN's for OpenCL). Each component NAME (cudnn, dnnl, nccl, pcre2, xxhash) becomes the imported target
# LockstepLibraries::NAME. The installed package has a copy of this file.
include(FindPackageHandleStandardArgs)

function(lockstep_find_library name)
  string(TOUPPER LOCKSTEP_${name} variable)
  # CUDAToolkit's folders are empty where it was not looked for.
  find_path(${variable}_INCLUDE ${name}.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(${variable} NAMES ${name} ${name}-8  # pcre2-8: of 8-bit characters
               HINTS ${CUDAToolkit_LIBRARY_DIR})
  mark_as_advanced(${variable} ${variable}_INCLUDE)
  if(NOT ${variable} OR NOT ${variable}_INCLUDE)
    return()
  endif()
  set(LockstepLibraries_${name}_FOUND TRUE PARENT_SCOPE)
  if(NOT TARGET LockstepLibraries::${name})
    add_library(LockstepLibraries::${name} UNKNOWN IMPORTED)
    set_target_properties(LockstepLibraries::${name} PROPERTIES
      IMPORTED_LOCATION ${${variable}}
      INTERFACE_INCLUDE_DIRECTORIES ${${variable}_INCLUDE})
  endif()
endfunction()

foreach(LockstepLibraries_name IN LISTS LockstepLibraries_FIND_COMPONENTS)
  lockstep_find_library(${LockstepLibraries_name})
endforeach()
find_package_handle_standard_args(LockstepLibraries HANDLE_COMPONENTS)
