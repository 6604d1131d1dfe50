# Where nvcc is: DINAT_NVCC, CMAKE_CUDA_COMPILER, $CUDACXX, $CUDA_HOME, $CUDA_PATH, PATH,
# /usr/local/cuda, the pip wheels of the extra [cuda]; dinat_deploy/native.py searches in the same order.

# The nvcc of the wheels nvidia-cuda-*, which lie in the site-packages of a Python.
function(dinat_find_nvcc_of_pip out)
  set(${out} "" PARENT_SCOPE)
  if(NOT Python_EXECUTABLE)
    find_program(Python_EXECUTABLE NAMES python3 python)
  endif()
  if(NOT Python_EXECUTABLE)
    return()
  endif()
  execute_process(COMMAND ${Python_EXECUTABLE} -c
                          "import sysconfig; print(sysconfig.get_path('purelib'))"
                  OUTPUT_VARIABLE packages OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  file(GLOB found ${packages}/nvidia/cu*/bin/nvcc)
  list(SORT found COMPARE NATURAL ORDER DESCENDING)
  if(found)
    list(GET found 0 newest)
    set(${out} ${newest} PARENT_SCOPE)
  endif()
endfunction()

function(dinat_find_nvcc out)
  if(DINAT_NVCC)
    set(nvcc ${DINAT_NVCC})
  elseif(CMAKE_CUDA_COMPILER)
    set(nvcc ${CMAKE_CUDA_COMPILER})
  elseif(DEFINED ENV{CUDACXX})
    set(nvcc $ENV{CUDACXX})
  else()
    find_program(DINAT_NVCC nvcc PATHS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin
                 NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
    find_program(DINAT_NVCC nvcc PATHS /usr/local/cuda/bin NO_CMAKE_FIND_ROOT_PATH)
    mark_as_advanced(DINAT_NVCC)
    set(nvcc ${DINAT_NVCC})
    if(NOT nvcc)
      dinat_find_nvcc_of_pip(nvcc)
    endif()
  endif()
  set(${out} ${nvcc} PARENT_SCOPE)
endfunction()
