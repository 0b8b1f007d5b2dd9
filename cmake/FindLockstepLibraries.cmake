# Libraries that come without a CMake package, or whose package asks for more than is used here
# (oneDNN's for OpenCL). Each component NAME (dnnl, pcre2, xxhash) becomes the imported target
# LockstepLibraries::NAME. The installed package has a copy of this file.
include(FindPackageHandleStandardArgs)

set(LOCKSTEP_pcre2_FILE pcre2-8)
foreach(name IN LISTS LockstepLibraries_FIND_COMPONENTS)
  string(TOUPPER LOCKSTEP_${name} variable)
  if(NOT DEFINED LOCKSTEP_${name}_FILE)
    set(LOCKSTEP_${name}_FILE ${name})
  endif()
  find_path(${variable}_INCLUDE ${name}.h)
  find_library(${variable} ${LOCKSTEP_${name}_FILE})
  mark_as_advanced(${variable} ${variable}_INCLUDE)
  if(${variable} AND ${variable}_INCLUDE)
    set(LockstepLibraries_${name}_FOUND TRUE)
    if(NOT TARGET LockstepLibraries::${name})
      add_library(LockstepLibraries::${name} UNKNOWN IMPORTED)
      set_target_properties(LockstepLibraries::${name} PROPERTIES
        IMPORTED_LOCATION ${${variable}}
        INTERFACE_INCLUDE_DIRECTORIES ${${variable}_INCLUDE})
    endif()
  endif()
endforeach()
find_package_handle_standard_args(LockstepLibraries HANDLE_COMPONENTS)
