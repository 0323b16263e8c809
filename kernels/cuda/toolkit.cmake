# Finds the CUDA toolkit and decides what kernels/cuda is compiled to. Included by the top CMakeLists.txt.
#
# LATHE_CUDA_ARCHS   native  for the GPUs of this machine; without one nothing is compiled (the default)
#                    all     for every GPU that Lathe supports
#                    a list  of architectures as nvcc names them: "80;90a"
#                    OFF     no CUDA kernels
#
# Sets LATHE_CUDA_CODE to a list like "sm_80;sm_90a;compute_80" ("compute": PTX, for later GPUs), empty for no kernels.

set(LATHE_CUDA_ARCHS native CACHE STRING "GPUs to compile CUDA kernels for: native, all, a list like 80;90a, or OFF")
set(LATHE_CUDA_OLDEST_TOOLKIT 12.5)
set(LATHE_CUDA_CODE)

# sm_90a has instructions that sm_90 lacks (wgmma); nothing else of ours needs a suffix.
set(LATHE_CUDA_ALL 80 86 89 90a 100 120)

# The architectures of `wanted` that this nvcc knows.
function(lathe_cuda_known out wanted)
  execute_process(COMMAND ${LATHE_NVCC} --list-gpu-code OUTPUT_VARIABLE listed ERROR_QUIET)
  set(known)
  foreach(arch ${wanted})
    string(REGEX REPLACE "[a-z]$" "" number ${arch})
    if(listed MATCHES "sm_${number}[^0-9]")
      list(APPEND known ${arch})
    endif()
  endforeach()
  set(${out} ${known} PARENT_SCOPE)
endfunction()

# Of the GPUs in this machine, as nvidia-smi reports them ("9.0" is 90a); empty when there are none.
function(lathe_cuda_native out)
  set(archs)
  find_program(LATHE_NVIDIA_SMI nvidia-smi)
  if(LATHE_NVIDIA_SMI)
    execute_process(COMMAND ${LATHE_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
                    OUTPUT_VARIABLE listed ERROR_QUIET RESULT_VARIABLE failed)
    if(failed EQUAL 0)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]" archs "${listed}")
      string(REPLACE "." "" archs "${archs}")
      list(TRANSFORM archs REPLACE "^90$" "90a")
      list(REMOVE_DUPLICATES archs)
    endif()
  endif()
  set(${out} ${archs} PARENT_SCOPE)
endfunction()

# nvcc, new enough; else LATHE_NVCC is not set and a line says why.
macro(lathe_find_nvcc)
  if(DEFINED ENV{CUDACXX})
    set(LATHE_NVCC $ENV{CUDACXX} CACHE FILEPATH "The compiler of the CUDA toolkit")
  endif()
  find_program(LATHE_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin
               DOC "The compiler of the CUDA toolkit")
  set(version)
  if(LATHE_NVCC)
    execute_process(COMMAND ${LATHE_NVCC} --version OUTPUT_VARIABLE text ERROR_QUIET)
    if(text MATCHES "release ([0-9]+\\.[0-9]+)")
      set(version ${CMAKE_MATCH_1})
    endif()
  endif()
  if(NOT LATHE_NVCC)
    message(STATUS "CUDA: no nvcc found; only the CPU kernels are compiled")
  elseif(NOT version OR version VERSION_LESS LATHE_CUDA_OLDEST_TOOLKIT)
    message(STATUS "CUDA: ${LATHE_NVCC} is of version ${version}, ${LATHE_CUDA_OLDEST_TOOLKIT} or newer is needed; "
                   "only the CPU kernels are compiled")
    set(version)
  endif()
endmacro()

# Sets `archs` and `ptx` for this machine; leaves them empty, and says why, when there is nothing to compile for.
macro(lathe_choose_native)
  lathe_cuda_native(present)
  lathe_cuda_known(archs "${present}")
  list(FILTER archs EXCLUDE REGEX "^[5-7][0-9]$") # before Ampere: no bf16 on tensor cores
  if(NOT present)
    message(STATUS "CUDA: ${version} (${LATHE_NVCC}), but no GPU here: CUDA kernels are not compiled "
                   "(-DLATHE_CUDA_ARCHS=all does it for every GPU)")
  elseif(NOT archs)
    string(REPLACE ";" ", " present "${present}")
    message(STATUS "CUDA: Lathe with CUDA ${version} (${LATHE_NVCC}) can not use the GPU here (${present}): it has to be "
                   "sm_80 or later, and known to the toolkit; CUDA kernels are not compiled")
  endif()
endmacro()

function(lathe_find_cuda)
  set(LATHE_CUDA_CODE PARENT_SCOPE)
  set(ptx)
  if(LATHE_CUDA_ARCHS STREQUAL "OFF")
    message(STATUS "CUDA: not wanted (LATHE_CUDA_ARCHS is OFF)")
    return()
  endif()
  lathe_find_nvcc()
  if(NOT version)
    return()
  endif()
  if(LATHE_CUDA_ARCHS STREQUAL "native")
    lathe_choose_native()
  elseif(LATHE_CUDA_ARCHS STREQUAL "all")
    lathe_cuda_known(archs "${LATHE_CUDA_ALL}")
    list(GET archs 0 oldest)
    list(GET archs -1 newest)
    string(REGEX REPLACE "[a-z]$" "" newest ${newest})
    set(ptx ${oldest} ${newest})
  else()
    lathe_cuda_known(archs "${LATHE_CUDA_ARCHS}")
    if(NOT archs STREQUAL LATHE_CUDA_ARCHS)
      message(FATAL_ERROR "LATHE_CUDA_ARCHS is \"${LATHE_CUDA_ARCHS}\": of these ${LATHE_NVCC} (${version}) knows "
                          "\"${archs}\"")
    endif()
  endif()
  if(NOT archs)
    return()
  endif()
  list(TRANSFORM archs PREPEND "sm_")
  list(TRANSFORM ptx PREPEND "compute_")
  set(code ${archs} ${ptx})
  string(REPLACE ";" ", " shown "${code}")
  message(STATUS "CUDA: ${version} (${LATHE_NVCC}); kernels for ${shown}")
  set(LATHE_CUDA_CODE ${code} PARENT_SCOPE)
endfunction()

lathe_find_cuda()

if(LATHE_CUDA_CODE)
  set(CMAKE_CUDA_COMPILER ${LATHE_NVCC})
  set(CMAKE_CUDA_ARCHITECTURES OFF) # -gencode comes from LATHE_CUDA_CODE
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
  # Programs are linked as the C they are; the runtime is a library among others.
  set(CMAKE_CUDA_LINKER_PREFERENCE_PROPAGATES 0)
  find_package(CUDAToolkit ${LATHE_CUDA_OLDEST_TOOLKIT} REQUIRED)
endif()
