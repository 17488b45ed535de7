# One interface target carries warnings and sanitizers; nothing is set globally.
add_library(tocsin_flags INTERFACE)
target_include_directories(tocsin_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(tocsin_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror
  $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>
  # g++ 12 reports uninitialised and dangling accesses inside libstdc++ that are not there.
  $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized -Wno-restrict -Wno-stringop-overflow
                           -Wno-array-bounds>)
if(TOCSIN_SANITIZE)
  target_compile_options(tocsin_flags INTERFACE
    -fsanitize=${TOCSIN_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(tocsin_flags INTERFACE -fsanitize=${TOCSIN_SANITIZE})
endif()
if(TOCSIN_FUZZ)
  # Coverage feedback from the libraries; only the fuzz targets themselves link libFuzzer's main.
  target_compile_options(tocsin_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

find_program(TOCSIN_LLD NAMES ld.lld ld.lld-14)
if(TOCSIN_LLD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_link_options(tocsin_flags INTERFACE -fuse-ld=lld)
endif()

find_program(TOCSIN_CCACHE ccache)
if(TOCSIN_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # It keeps results of compilations with precompiled headers only when told so.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros ${TOCSIN_CCACHE})
endif()

# tocsin_precompile(name header ...): headers that most files of a target begin with, read once.
# tocsin_precompile(name REUSE_FROM target): those of a target with the same flags. g++ only.
# Files still include what they use: the asan and the clang builds are without.
option(TOCSIN_PCH "Precompile the headers that most files include (g++)" ON)
function(tocsin_precompile name)
  if(NOT TOCSIN_PCH OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    return()
  endif()
  target_compile_options(${name} PRIVATE -fpch-preprocess)
  if("${ARGV1}" STREQUAL "REUSE_FROM")
    target_precompile_headers(${name} REUSE_FROM ${ARGV2})
  else()
    target_precompile_headers(${name} PRIVATE ${ARGN})
  endif()
endfunction()

# tocsin_library(name SOURCES a.cc ... DEPS target ... [PUBLIC_DEPS target ...])
function(tocsin_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PUBLIC_DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC ${ARG_PUBLIC_DEPS} PRIVATE tocsin_flags ${ARG_DEPS})
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
endfunction()

# What runs once is compiled for the compiler's time: a fifth less.
set(tocsin_test_options $<$<CONFIG:Release>:-O1>)

# tocsin_test(name SOURCES a.cc ... DEPS target ... LABELS label ... [TIMEOUT seconds] [ARGS ...])
# One executable, one ctest. Labels: unit, sim, contract, integration, fuzz, bench.
function(tocsin_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS;ARGS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE tocsin_flags ${ARG_DEPS} fmt::fmt GTest::gtest GTest::gmock
                                        GTest::gtest_main)
  target_compile_options(${name} PRIVATE ${tocsin_test_options})
  # hiredis defines _FILE_OFFSET_BITS, which these headers were read without.
  if("${ARG_DEPS}" MATCHES "redis|HIREDIS")
  elseif("${ARG_DEPS}" MATCHES "tocsin_(server|cli|sdk|proto|local|dispatch_grpc)")
    tocsin_precompile(${name} REUSE_FROM tocsin_grpc_test_headers)
  else()
    tocsin_precompile(${name} REUSE_FROM tocsin_test_headers)
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} ${ARG_ARGS})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()
