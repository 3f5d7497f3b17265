// What the files of C++ tests share.
#pragma once

#include <string>
#include <vector>

#include "core/kernels/kernels.h"

// Prints what failed; the program then ends with an error.
void check(bool condition, const std::string& what);

// Of all instruction sets that this processor has, and AVX-512 emulated: its code differs from the others, and few
// machines run it.
std::vector<const neox::kernels::KernelTable*> kernel_tables();

void test_backends();
void test_tensor_pool();
void test_generation();
void test_int8();
void test_transposed();
