// Not compiled for the instruction set of vectors.cpp: a CPU without it gets as far as this test of it.
#include <cstdio>

#include "common/api.h"

namespace dyndeploy::DYNDEPLOY_ISA {
void test_all(int argc, char** argv);
}

#define NAME_OF(isa) NAME_OF_TEXT(isa)
#define NAME_OF_TEXT(isa) #isa

int main(int argc, char** argv) {
  if (dyndeploy_use_instructions(NAME_OF(DYNDEPLOY_ISA)) != DYNDEPLOY_OK) {
    std::printf("skipped: %s\n", dyndeploy_message());
    return 77;
  }
  dyndeploy::DYNDEPLOY_ISA::test_all(argc, argv);
}
