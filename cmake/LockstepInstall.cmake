# What find_package(lockstep CONFIG) finds: installed anywhere, and movable; or this build folder.
include(CMakePackageConfigHelpers)

set(libraries "pcre2 xxhash")
set(openmp)
if(NOT LOCKSTEP_PLAIN_KERNELS)
  string(APPEND libraries " dnnl")
  set(openmp "find_dependency(OpenMP COMPONENTS CXX)")
endif()
configure_file(cmake/lockstepConfig.cmake.in lockstepConfig.cmake @ONLY)
configure_file(cmake/FindLockstepLibraries.cmake FindLockstepLibraries.cmake COPYONLY)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lockstepConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/lockstep)
install(FILES ${PROJECT_BINARY_DIR}/lockstepConfig.cmake
              ${PROJECT_BINARY_DIR}/lockstepConfigVersion.cmake
              ${PROJECT_BINARY_DIR}/FindLockstepLibraries.cmake
        DESTINATION ${package})

set(targets lockstep_library lockstep_flags)
foreach(layer IN LISTS LOCKSTEP_LAYERS)
  list(APPEND targets lockstep_${layer})
  # Kernels, what is behind the plugins, and the command are for Lockstep's own sources; so is what
  # includes CLI11.
  install(DIRECTORY ${layer} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep
          FILES_MATCHING PATTERN "*.h"
          REGEX "/(runtime/cpu|runtime/cuda|collectives/mpi|collectives/nccl|launcher/supervise)$" EXCLUDE
          REGEX "/launcher/(flags/command_node|lockstep)\\.h$" EXCLUDE)
endforeach()
install(FILES launcher/lockstep.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep)
install(TARGETS ${targets} EXPORT lockstep INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS lockstep)
if(TARGET lockstep_mpi)
  install(TARGETS lockstep_mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
if(TARGET lockstep_cuda AND NOT LOCKSTEP_CUDA_EXCLUDED)
  install(TARGETS lockstep_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(EXPORT lockstep NAMESPACE lockstep:: FILE lockstepTargets.cmake DESTINATION ${package})
export(EXPORT lockstep NAMESPACE lockstep:: FILE ${PROJECT_BINARY_DIR}/lockstepTargets.cmake)
