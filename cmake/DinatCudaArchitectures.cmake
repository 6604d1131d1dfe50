# Which GPU architectures to compile for.
#
# DINAT_CUDA_ARCHITECTURES (cache, else environment) is a list such as `87,110`, or `all`. Empty means
# the GPU in this machine, or where there is none sm_80 code, which newer GPUs run too, from its PTX
# where they must. PTX of the newest architecture is always added.
set(DINAT_CUDA_ARCHITECTURES "" CACHE STRING "GPU architectures, such as 87,110; all; empty: as found")
set(kDinatAllArchitectures 75 80 86 87 89 90 100 110 120)

# The architectures that this nvcc generates code for, as numbers.
function(dinat_nvcc_architectures nvcc out)
  execute_process(COMMAND ${nvcc} --list-gpu-code OUTPUT_VARIABLE listed ERROR_VARIABLE fault
                  RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "${nvcc} --list-gpu-code failed: ${fault}\nCUDA 11.5 or newer is needed.")
  endif()
  string(REGEX MATCHALL "sm_[0-9]+" codes "${listed}")
  list(TRANSFORM codes REPLACE "sm_" "")
  list(SORT codes COMPARE NATURAL)
  set(${out} ${codes} PARENT_SCOPE)
endfunction()

# Compute capabilities of the GPUs in this machine: `90`, or nothing.
function(dinat_gpus_here nvcc out)
  find_program(DINAT_NVIDIA_SMI nvidia-smi)
  mark_as_advanced(DINAT_NVIDIA_SMI)
  set(answer "")
  if(DINAT_NVIDIA_SMI)
    execute_process(COMMAND ${DINAT_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
                    OUTPUT_VARIABLE answer ERROR_QUIET TIMEOUT 20)
  endif()
  # A Jetson's nvidia-smi may not know; the tool behind `nvcc -arch=native` does.
  get_filename_component(folder ${nvcc} DIRECTORY)
  if(NOT answer MATCHES "[0-9]\\.[0-9]" AND EXISTS ${folder}/__nvcc_device_query)
    execute_process(COMMAND ${folder}/__nvcc_device_query OUTPUT_VARIABLE answer ERROR_QUIET
                    RESULT_VARIABLE failed TIMEOUT 20)
    if(failed)
      set(answer "")
    endif()
  endif()
  string(REPLACE "." "" answer "${answer}")
  string(REGEX MATCHALL "[0-9]+" found "${answer}")
  list(REMOVE_DUPLICATES found)
  set(${out} ${found} PARENT_SCOPE)
endfunction()

# The value for CMAKE_CUDA_ARCHITECTURES.
function(dinat_cuda_architectures nvcc out)
  set(wanted "${DINAT_CUDA_ARCHITECTURES}")
  if(NOT wanted)
    set(wanted "$ENV{DINAT_CUDA_ARCHITECTURES}")
  endif()
  string(REGEX REPLACE "[, ]+" ";" wanted "${wanted}")
  dinat_nvcc_architectures(${nvcc} supported)
  # CUDA 12.8 and 12.9 call Thor sm_101; its name has been sm_110 since 13.0.
  set(thor 110)
  if(101 IN_LIST supported AND NOT 110 IN_LIST supported)
    set(thor 101)
  endif()

  set(chosen "")
  if(wanted STREQUAL "")
    if(NOT CMAKE_CROSSCOMPILING)
      dinat_gpus_here(${nvcc} here)
      foreach(architecture IN LISTS here)
        if(architecture IN_LIST supported AND NOT architecture LESS 75)
          list(APPEND chosen ${architecture})
        endif()
      endforeach()
    endif()
    if(NOT chosen)
      set(chosen 80)
    endif()
  elseif(wanted STREQUAL "all")
    foreach(architecture IN LISTS kDinatAllArchitectures)
      string(REGEX REPLACE "^110$" "${thor}" architecture ${architecture})
      if(architecture IN_LIST supported)
        list(APPEND chosen ${architecture})
      endif()
    endforeach()
  else()
    foreach(architecture IN LISTS wanted)
      string(REGEX REPLACE "^110$" "${thor}" architecture ${architecture})
      if(NOT architecture MATCHES "^[0-9]+$" OR architecture LESS 75)
        message(FATAL_ERROR "DINAT_CUDA_ARCHITECTURES has '${architecture}'; expected numbers from 75 "
                            "up, such as 87,110, or all.")
      elseif(NOT architecture IN_LIST supported)
        string(REPLACE ";" ", " known "${supported}")
        message(FATAL_ERROR "Architecture ${architecture} is unknown to ${nvcc}, which compiles for "
                            "${known}. Choose one of these, or another CUDA compiler.")
      endif()
      list(APPEND chosen ${architecture})
    endforeach()
  endif()

  list(REMOVE_DUPLICATES chosen)
  list(SORT chosen COMPARE NATURAL)
  list(POP_BACK chosen newest)
  list(TRANSFORM chosen APPEND "-real")
  list(APPEND chosen ${newest})  # without a suffix: machine code and PTX
  set(${out} ${chosen} PARENT_SCOPE)
endfunction()
