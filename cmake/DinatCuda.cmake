# Finds a CUDA compiler unless told not to, and settles what it compiles for.
#
# In: DINAT_CUDA, DINAT_CUDA_ARCHITECTURES (cache or environment), DINAT_NVCC.
# Out: DINAT_HAVE_CUDA; with it the language CUDA and the targets of CUDAToolkit.
include(CheckLanguage)
include(DinatCudaArchitectures)
include(DinatCudaToolkit)
include(DinatFindNvcc)

set(DINAT_HAVE_CUDA OFF)
if(NOT DINAT_CUDA STREQUAL "OFF")
  dinat_find_nvcc(dinat_nvcc)
  if(dinat_nvcc)
    dinat_cuda_toolkit(${dinat_nvcc} dinat_nvcc)
  endif()
  if(dinat_nvcc)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      dinat_cuda_architectures(${dinat_nvcc} CMAKE_CUDA_ARCHITECTURES)
    endif()
    set(ENV{CUDACXX} ${dinat_nvcc})
    # With ON, and when cross-compiling, CMake's own message about a compiler that does not work is
    # what the user needs; AUTO goes on without it.
    if(DINAT_CUDA STREQUAL "AUTO" AND NOT CMAKE_CROSSCOMPILING)
      check_language(CUDA)
    else()
      set(CMAKE_CUDA_COMPILER ${dinat_nvcc})
    endif()
  endif()
  if(dinat_nvcc AND CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    # FindCUDAToolkit insists on a shared runtime library, which is neither needed nor there in pip's
    # wheels and for other processors; the static one will do.
    find_library(CUDA_CUDART NAMES cudart cudart_static NO_DEFAULT_PATH
                 HINTS ${CMAKE_CUDA_HOST_IMPLICIT_LINK_DIRECTORIES})
    find_package(CUDAToolkit REQUIRED)
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
    set(DINAT_HAVE_CUDA ON)
  elseif(DINAT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "DINAT_CUDA=ON, and no CUDA compiler was found. Put nvcc on PATH, set "
                        "CUDA_HOME, or pip install 'dinat-deploy[cuda]'.")
  endif()
endif()

if(DINAT_HAVE_CUDA)
  message(STATUS "CUDA kernels and TensorRT plugin: yes, nvcc ${CMAKE_CUDA_COMPILER_VERSION}, "
                 "architectures ${CMAKE_CUDA_ARCHITECTURES}")
elseif(dinat_nvcc)
  message(STATUS "CUDA kernels and TensorRT plugin: no, ${dinat_nvcc} does not compile")
else()
  message(STATUS "CUDA kernels and TensorRT plugin: no, nvcc was not found")
endif()
