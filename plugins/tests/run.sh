#!/bin/sh
# The native tests in a release build, under AddressSanitizer with UBSan, and under ThreadSanitizer.
#   plugins/tests/run.sh [release|asan|tsan …]
set -eu
cd "$(dirname "$0")/../.."

configure() { cmake -S plugins -B "build/$1" -DDYNDEPLOY_TESTS=ON "-DDYNDEPLOY_SANITIZE=$2" "-DCMAKE_BUILD_TYPE=$3" >/dev/null; }

for configuration in ${@:-asan tsan}; do
  case $configuration in
    release) configure release "" Release ;;
    asan) configure asan address,undefined RelWithDebInfo ;;
    tsan) configure tsan thread RelWithDebInfo ;;
    *) echo "there is no configuration '$configuration': release, asan or tsan" >&2; exit 2 ;;
  esac
  cmake --build "build/$configuration" --parallel "$(nproc)"
  ctest --test-dir "build/$configuration" --output-on-failure --parallel 2
done
